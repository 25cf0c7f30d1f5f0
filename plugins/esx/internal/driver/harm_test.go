package driver_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
	hv "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/inventory/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func TestURIsFindTheirConnections(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	host, port, _ := strings.Cut(s.Address(), ":")
	auth := write(t, 0o600, "[credentials-x]\nusername=root\npassword="+vimtest.Password+"\n[auth-esx-"+host+"]\ncredentials=x\n")
	r := start(t, map[string]any{"lab": table(s, "esx"), "other": map[string]any{"address": "192.0.2.1", "user": "root", "secret": secretID}})
	r.host.Configure(t, config(t, map[string]any{
		"lab": map[string]any{"address": "192.0.2.7", "user": "root", "secret": secretID},
	}, auth))
	for uri, want := range map[string]string{
		"esx:///lab":                                  "esx:///lab",
		"esx:///":                                     "esx:///lab",
		"esx://192.0.2.7/":                            "esx:///lab",
		"esx://root@192.0.2.7":                        "esx:///lab",
		"esx:///lab?auto_answer=1":                    "esx:///lab?auto_answer=1",
		"vpx:///lab/DC0/DC0_H0":                       "vpx:///lab/DC0/DC0_H0",
		"esx://" + s.Address() + "/?no_verify=1":      "esx://root@" + s.Address() + "/?no_verify=1",
		"esx://root@" + s.Address() + "/?no_verify=1": "esx://root@" + s.Address() + "/?no_verify=1",
	} {
		res, err := r.open(uri)
		if err != nil || res.GetConnection() != want {
			t.Errorf("%s is %q, %v, want %q", uri, res.GetConnection(), err, want)
			continue
		}
		if strings.Contains(res.GetUri(), "root") || strings.Contains(res.GetConnection(), vimtest.Password) {
			t.Errorf("%s is told as %q", uri, res.GetUri())
		}
		if again, err := r.open(res.GetConnection()); err != nil || again.GetConnection() != want {
			t.Errorf("connection %s is %q, %v", want, again.GetConnection(), err)
		}
	}
	for _, c := range []struct {
		uri  string
		code verr.Code
		says string
	}{
		{"esx:///nobody", verr.NoConnect, "nobody"},
		{"esx://198.51.100.9/", verr.AuthFailed, "auth-esx-198.51.100.9"},
		{"esx://admin@" + s.Address() + "/", verr.AuthFailed, "admin"},
		{"esx://root:pw@" + host + "/", verr.InvalidArg, "password"},
		{"esx:///lab?vcenter=x", verr.InvalidArg, "vcenter"},
		{"esx:///lab?what=x", verr.InvalidArg, "what"},
		{"gsx:///lab", verr.InvalidArg, "gsx"},
		{"vpx:///lab/DC0", verr.InvalidArg, "datacenter"},
	} {
		_, err := r.open(c.uri)
		refused(t, err, c.code, c.says)
	}
	p := r.follow("esx://" + host + ":" + port + "/?no_verify=1")
	p.synced()
	if len(p.guests) != 2 {
		t.Errorf("%d guests", len(p.guests))
	}
}

func TestConfigurationsAreRefusedWithTheirFault(t *testing.T) {
	r := start(t, nil)
	configure := func(endpoint map[string]any) error {
		_, err := configureClient(r, config(t, map[string]any{"lab": endpoint}, ""))
		return err
	}
	for says, endpoint := range map[string]map[string]any{
		"password":   {"address": "h", "user": "u", "password": "x"},
		"user":       {"address": "h"},
		"address":    {"address": "h:0", "user": "u"},
		"unknown":    {"address": "h", "user": "u", "colour": "red"},
		"product":    {"address": "h", "user": "u", "product": "gsx"},
		"only one":   {"address": "h", "user": "u", "secret": "x", "password_file": "y"},
		"proxy":      {"address": "h", "user": "u", "proxy": "ftp://x"},
		"thumbprint": {"address": "h", "user": "u", "thumbprint": "zz"},
	} {
		err := configure(endpoint)
		if e := verr.From(err); says == "thumbprint" {
			if err != nil {
				t.Errorf("%s: %v", says, err) // told when it is opened
			}
		} else if e == nil || e.Code != verr.InvalidArg || !strings.Contains(e.Message, says) {
			t.Errorf("%v: error is %v, want %q", endpoint, err, says)
		}
	}
}

func TestLoginsThatFailAreToldWithTheirReason(t *testing.T) {
	s, old := vimtest.Start(t, vimtest.Options{}), vimtest.Start(t, vimtest.Options{Expired: true})
	wrong := write(t, 0o600, "not it\n")
	open := write(t, 0o644, "x\n")
	untrusted := table(s, "esx")
	delete(untrusted, "thumbprint")
	expired := table(old, "esx")
	delete(expired, "thumbprint")
	expired["certificate"] = write(t, 0o600, string(old.PEM))
	wrongPassword := table(s, "esx")
	delete(wrongPassword, "secret")
	wrongPassword["password_file"] = wrong
	openFile := table(s, "esx")
	delete(openFile, "secret")
	openFile["password_file"] = open
	missing := table(s, "esx")
	missing["secret"] = "00000000-0000-0000-0000-000000000000"
	vpx := table(s, "vpx")
	r := start(t, map[string]any{
		"untrusted": untrusted, "expired": expired, "wrong": wrongPassword, "open": openFile, "missing": missing, "vpx": vpx,
		"dead": map[string]any{"address": vimtest.DeadAddress(t), "user": "root", "secret": secretID},
	})
	for _, c := range []struct {
		uri  string
		code verr.Code
		says string
	}{
		{"esx:///wrong", verr.AuthFailed, "password is wrong"},
		{"esx:///untrusted", verr.Internal, "thumbprint"},
		{"esx:///expired", verr.Internal, "expired"},
		{"esx:///dead", verr.Internal, "refused"},
		{"vpx:///vpx", verr.Internal, "no vpx endpoint"},
	} {
		p := r.follow(c.uri)
		p.until("that "+c.uri+" is out of reach", func() bool { return p.stale != nil })
		if v := p.stale.GetCause(); v.GetCode() != int32(c.code) || !strings.Contains(v.GetMessage(), c.says) || p.isSynced {
			t.Errorf("%s: cause is %v, want %q", c.uri, v, c.says)
		}
		guest := &hv.Guest{Connection: p.connection, Uuid: newID, Name: "x"}
		_, err := pb.NewGuestServiceClient(r.conn).Start(r.ctx(), &pb.StartRequest{Guest: guest})
		refused(t, err, c.code, c.says)
	}
	_, err := r.open("esx:///open")
	refused(t, err, verr.AuthFailed, "can be read by others")
	_, err = r.open("esx:///missing")
	refused(t, err, verr.OperationDenied, "00000000")
}

func TestAPathThatLeadsNowhereIsTold(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{VPX: true})
	r := start(t, map[string]any{"lab": table(s, "vpx")})
	for path, says := range map[string]string{
		"no/DC0_H0":                "no datacenter",
		"DC0/none":                 "none",
		"DC0/DC0_C0":               "has to specify the host system",
		"DC0/DC0_C0/DC0_C0_H9":     "DC0_C0_H9",
		"DC0/DC0_H0%2F..%2F..%2Fx": "DC0_H0/../../x",
		"DC0/%5B%5D%22%27%3Cx%3E":  `[]"'<x>`,
	} {
		p := r.follow("vpx:///lab/" + path)
		p.until("that "+path+" leads nowhere", func() bool { return p.stale != nil })
		if v := p.stale.GetCause(); v.GetCode() != int32(verr.NoConnect) || !strings.Contains(v.GetMessage(), says) {
			t.Errorf("%s: cause is %v, want %q", path, v, says)
		}
	}
	for _, path := range []string{"DC0/DC0_H0", "DC0/DC0_H0/DC0_H0", "DC0/DC0_C0/DC0_C0_H1"} {
		r.follow("vpx:///lab/" + path).synced()
	}
	p := r.follow("vpx:///lab")
	p.synced()
	if len(p.guests) != 4 {
		t.Errorf("the server has %d guests", len(p.guests))
	}
	_, err := pb.NewGuestServiceClient(r.conn).Define(r.ctx(), &pb.DefineRequest{Connection: p.connection, Xml: definition("x", newID, "")})
	refused(t, err, verr.OperationUnsupported, "vpx://SERVER/DATACENTER/HOST")
}

func TestADeadEndpointDelaysNobody(t *testing.T) {
	well, hung := vimtest.Start(t, vimtest.Options{}), vimtest.Start(t, vimtest.Options{})
	r := start(t, map[string]any{"well": table(well, "esx"), "hung": table(hung, "esx")})
	a, b := r.follow("esx:///well"), r.follow("esx:///hung")
	a.synced()
	b.synced()
	hung.Gate.Hang()
	defer hung.Gate.Open()
	guests := pb.NewGuestServiceClient(r.conn)
	blocked := make(chan error, 8)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ref := b.ref("ha-host_VM0")
	for range cap(blocked) {
		go func() {
			_, err := guests.Stop(ctx, &pb.StopRequest{Guest: ref})
			blocked <- err
		}()
	}
	time.Sleep(100 * time.Millisecond)
	begin := time.Now()
	for range 3 {
		stopped, err := guests.Stop(r.ctx(), &pb.StopRequest{Guest: a.ref("ha-host_VM0")})
		if err != nil {
			t.Fatal(err)
		}
		a.at(stopped.GetSeq())
		started, err := guests.Start(r.ctx(), &pb.StartRequest{Guest: a.ref("ha-host_VM0")})
		if err != nil {
			t.Fatal(err)
		}
		a.at(started.GetSeq())
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v beside an endpoint that hangs", took)
	}
	for range cap(blocked) {
		if err := <-blocked; err == nil {
			t.Error("an endpoint that hangs has answered")
		}
	}
}

func TestTasksThatNeverEndAreCancelled(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	const name = "ha-host_VM0"
	s.PowerOff(name)
	p.until("off", func() bool { return p.guest(name).GetState() == hv.State_STATE_SHUTOFF })
	guests := pb.NewGuestServiceClient(r.conn)
	power := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		_, err := guests.Start(ctx, &pb.StartRequest{Guest: p.ref(name)})
		return err
	}
	s.Stall("PowerOnVM_Task", true)
	begin := time.Now()
	refused(t, power(4*time.Second), verr.OperationTimeout, name, "cancelled at the host")
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	s.Stall("PowerOnVM_Task", false)
	refused(t, power(4*time.Second), verr.OperationTimeout, name, "could not be cancelled")
	s.Unstall("PowerOnVM_Task")
	if err := power(slack); err != nil {
		t.Errorf("afterwards: %v", err)
	}

	s.Stall("CreateVM_Task", true)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	_, err := guests.Define(ctx, &pb.DefineRequest{Connection: p.connection, Xml: definition("never", newID, "")})
	refused(t, err, verr.OperationTimeout, "never", "cancelled at the host")
	if strings.Contains(strings.Join(s.Machines(), " "), "never") {
		t.Error("something is left")
	}
}

func TestQuestionsThatNobodyAnswersAreTold(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	const name = "ha-host_VM0"
	s.PowerOff(name)
	p.until("off", func() bool { return p.guest(name).GetState() == hv.State_STATE_SHUTOFF })
	s.Ask(name, "moved or copied?", []string{"moved", "copied"}, 1)
	for range 2 {
		_, err := pb.NewGuestServiceClient(r.conn).Start(r.ctx(), &pb.StartRequest{Guest: p.ref(name)})
		refused(t, err, verr.OperationFailed, name, "moved or copied?", "'moved', 'copied'", "auto_answer=1")
	}
	if answers := s.Answers(); answers != nil {
		t.Errorf("answers are %v", answers)
	}
}

func TestQuestionsAreAnsweredWithTheirDefault(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	r := start(t, map[string]any{"lab": table(s, "esx")})
	const name = "ha-host_VM0"
	s.PowerOff(name)
	p := r.follow("esx:///lab?auto_answer=1")
	p.synced()
	s.Ask(name, "moved or copied?", []string{"moved", "copied"}, 1)
	res, err := pb.NewGuestServiceClient(r.conn).Start(r.ctx(), &pb.StartRequest{Guest: p.ref(name)})
	if err != nil {
		t.Fatal(err)
	}
	p.at(res.GetSeq())
	if p.guest(name).GetState() != hv.State_STATE_RUNNING || strings.Join(s.Answers(), ",") != "1" {
		t.Errorf("guest is %v, answers are %v", p.guest(name).GetState(), s.Answers())
	}
}

func TestFaultsOfEveryClassAreErrors(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	const name = "ha-host_VM0"
	stop := func() error {
		_, err := pb.NewGuestServiceClient(r.conn).Stop(r.ctx(), &pb.StopRequest{Guest: p.ref(name)})
		return err
	}
	for _, c := range []struct {
		fault string
		code  verr.Code
	}{
		{"NoPermission", verr.AccessDenied},
		{"TaskInProgress", verr.ResourceBusy},
		{"InvalidState", verr.OperationInvalid},
		{"NotSupported", verr.OperationUnsupported},
		{"RuntimeFault", verr.Internal},
		{"HostConnectFault", verr.Internal},
		{"NoSuchThingAsThis", verr.Internal},
	} {
		s.Spoiler.Fault("PowerOffVM_Task", c.fault)
		err := stop()
		if e := verr.From(err); e == nil || e.Code != c.code || !strings.Contains(e.Message, name) {
			t.Errorf("%s: error is %v, want code %d", c.fault, err, c.code)
		}
	}
	for _, spoil := range []func(string){s.Spoiler.Garbage, s.Spoiler.Empty, s.Spoiler.Unavailable} {
		spoil("PowerOffVM_Task")
		refused(t, stop(), verr.Internal, name)
	}
	s.Spoiler.Off()
	if err := stop(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAnEndpointThatGoesAndComesIsTakenUpAgain(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	const name = "ha-host_VM0"
	s.Gate.Cut()
	p.until("the loss", func() bool { return p.stale != nil })
	if len(p.guests) != 2 {
		t.Errorf("%d guests are left", len(p.guests))
	}
	s.PowerOff(name)
	s.Create("meanwhile")
	s.Gate.Open()
	p.synced()
	if p.guest(name).GetState() != hv.State_STATE_SHUTOFF || p.names()["meanwhile"] == nil {
		t.Errorf("when it is synced again the guests are %v", p.names())
	}
	s.ExpireSessions()
	if _, err := pb.NewGuestServiceClient(r.conn).Start(r.ctx(), &pb.StartRequest{Guest: p.ref(name)}); err != nil {
		t.Errorf("after the end of the session: %v", err)
	}
}

func TestTheConfigurationChangesUnderAConnection(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	file := write(t, 0o600, "wrong\n")
	e := table(s, "esx")
	delete(e, "secret")
	e["password_file"] = file
	r := start(t, map[string]any{"lab": e})
	p := r.follow("esx:///lab")
	p.until("the refusal", func() bool { return p.stale != nil })
	if err := os.WriteFile(file, []byte(vimtest.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.open("esx:///lab"); err != nil {
		t.Fatal(err)
	}
	p.synced()
	r.host.Configure(t, config(t, nil, ""))
	p.until("the end of the endpoint", func() bool { return p.stale != nil })
	if c := p.stale.GetCause(); c.GetCode() != int32(verr.NoConnect) {
		t.Errorf("cause is %v", c)
	}
	r.host.Configure(t, config(t, map[string]any{"lab": e}, ""))
	p.synced()
}

func TestDefinitionsAreReadAtOnceWhenAskedFor(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	const name = "ha-host_VM0"
	s.Resize(name, 128, 3)
	res, err := pb.NewGuestServiceClient(r.conn).Describe(r.ctx(), &pb.DescribeRequest{Guest: p.ref(name)})
	if err != nil || !strings.Contains(res.GetXml(), ">3</vcpu>") || !strings.Contains(res.GetXml(), ">131072</memory>") {
		t.Errorf("definition is %v, %v", res, err)
	}
	p.until("the change", func() bool {
		g := p.guest(name)
		return g.GetVcpus() == 3 && strings.Contains(g.GetXml(), ">3</vcpu>")
	})
	_, err = pb.NewGuestServiceClient(r.conn).Describe(r.ctx(), &pb.DescribeRequest{Guest: &hv.Guest{Connection: p.connection, Uuid: newID}})
	refused(t, err, verr.NoDomain, newID)
}

func TestConnectionsToOneServerShareASession(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{VPX: true})
	r := start(t, map[string]any{"lab": table(s, "vpx")})
	for _, path := range []string{"DC0/DC0_H0", "DC0/DC0_C0/DC0_C0_H0", "DC0/DC0_C0/DC0_C0_H1"} {
		r.follow("vpx:///lab/" + path).synced()
	}
	if n := s.Sessions(); n != 1 {
		t.Errorf("there are %d sessions", n)
	}
	r.host.Configure(t, config(t, nil, ""))
	deadline := time.Now().Add(slack)
	for s.Sessions() != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("there are %d sessions still", s.Sessions())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestASuspensionThatTakesLongIsLeftAlone(t *testing.T) {
	r, s, p := lab(t, vimtest.Options{})
	const name = "ha-host_VM0"
	s.Stall("SuspendVM_Task", true)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := hv.NewLifecycleServiceClient(r.conn).Suspend(ctx, &hv.SuspendRequest{Guest: p.ref(name)})
	refused(t, err, verr.OperationTimeout, name, "goes on at the host")
	if n := s.Spoiler.Calls("CancelTask"); n != 0 {
		t.Errorf("the task was cancelled %d times", n)
	}
}
