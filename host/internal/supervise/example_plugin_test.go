package supervise_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/host/internal/manifest"
	"github.com/lodgevirt/lodge/host/internal/supervise"
	"github.com/lodgevirt/lodge/sdk/hypervisor"
	"github.com/lodgevirt/lodge/sdk/plugin"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// pluginArgument makes the test binary a plugin.
const pluginArgument = "serve-as-plugin"

// coreArgument makes the test binary a core in the folder that is the next argument.
const coreArgument = "serve-as-core"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == pluginArgument {
		plugin.Serve(plugin.Plugin{
			Name: "example", Version: "1.2.3",
			Hypervisor: func(core plugin.Core) (hypervisor.Driver, error) { return &exampleDriver{core: core}, nil },
		})
	}
	if len(os.Args) > 2 && os.Args[1] == coreArgument {
		serveAsCore(os.Args[2])
	}
	goleak.VerifyTestMain(m)
}

// serveAsCore supervises the plugin in a folder, prints its pid, and waits to be killed.
func serveAsCore(dir string) {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	p := supervise.New(supervise.Config{
		Manifest: &manifest.Manifest{Name: "example", Binary: self, Protocol: []int{1}},
		Dirs:     supervise.Dirs{Private: dir + "/run", LogFile: dir + "/log/example.log"},
		Log:      hclog.NewNullLogger(), Args: []string{pluginArgument},
	})
	go func() { _ = p.Run(context.Background()) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		panic(err)
	}
	fmt.Println(p.Status().PID)
	select {}
}

// exampleDriver does what the text in a request says. It counts what it does in files of its runtime folder, so that the count
// outlives it.
type exampleDriver struct{ core plugin.Core }

func (d *exampleDriver) count(what string) error {
	f, err := os.OpenFile(d.core.Settings().RuntimeDir+"/"+what, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = f.WriteString(".")
	return err
}

// act obeys the text: "die N" kills the process for the first N calls of that kind.
func (d *exampleDriver) act(what, text string) error {
	if err := d.count(what); err != nil {
		return err
	}
	var times int
	if n, _ := fmt.Sscanf(text, "die %d", &times); n == 1 {
		done, err := os.ReadFile(d.core.Settings().RuntimeDir + "/" + what)
		if err != nil {
			return err
		}
		if len(done) <= times {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	switch {
	case text == "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // the signal stops the threads one after another; the answer must not slip out
	case text == "refuse":
		return verr.New(verr.OperationInvalid, "refused")
	case text == "panic":
		panic("asked for")
	case text == "print":
		fmt.Print(strings.Repeat("noise on the standard output\n", 40000))
	case strings.HasPrefix(text, "log "):
		d.core.Logger().Info(strings.TrimPrefix(text, "log "))
	}
	return nil
}

func (d *exampleDriver) Probe(context.Context, *pb.ProbeRequest) (*pb.ProbeResponse, error) {
	return &pb.ProbeResponse{Type: "Example"}, nil
}

func (d *exampleDriver) Validate(_ context.Context, req *pb.ValidateRequest) (*pb.ValidateResponse, error) {
	return &pb.ValidateResponse{Xml: req.GetXml()}, d.act("query", req.GetXml())
}

func (d *exampleDriver) Start(ctx context.Context, req *pb.StartRequest) (*pb.StartResponse, error) {
	if leases := req.GetResolved().GetLeases(); len(leases) > 0 {
		l := leases[0]
		f, err := d.core.TakeFile(ctx, l.GetToken())
		if err != nil {
			return nil, err
		}
		text := make([]byte, 64)
		n, err := f.ReadAt(text, 0)
		_ = f.Close()
		if n == 0 {
			return nil, err
		}
		return &pb.StartResponse{LiveXml: string(text[:n])}, nil
	}
	return &pb.StartResponse{}, d.act("once", req.GetXml())
}

func (d *exampleDriver) Stop(_ context.Context, req *pb.StopRequest) (*pb.StopResponse, error) {
	return &pb.StopResponse{}, d.act("idempotent", req.GetGuest().GetName())
}

func (d *exampleDriver) Recover(context.Context, *pb.RecoverRequest) (*pb.RecoverResponse, error) {
	return &pb.RecoverResponse{Verdict: pb.Verdict_VERDICT_RUNNING}, nil
}

func (d *exampleDriver) Inspect(ctx context.Context, _ *pb.InspectRequest) (*pb.InspectResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
