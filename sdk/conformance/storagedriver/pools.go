package storagedriver

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func capabilitiesTell(b *bench) {
	rsp, err := b.pools.Capabilities(b.ctx(), &pb.CapabilitiesRequest{})
	b.must("capabilities", err)
	i := slices.IndexFunc(rsp.GetTypes(), func(t *pb.PoolType) bool { return t.GetName() == b.pool.GetType() })
	if i < 0 {
		b.Fatalf("type %q is not among %v", b.pool.GetType(), rsp.GetTypes())
	}
	for _, t := range rsp.GetTypes() {
		if !t.GetSupported() && t.GetReason() == "" {
			b.Errorf("type %q cannot be used, and no reason is told", t.GetName())
		}
		for name, c := range map[string]struct {
			all  []string
			good string
		}{"source": {t.GetSourceFormats(), t.GetDefaultSourceFormat()}, "volume": {t.GetVolumeFormats(), t.GetDefaultVolumeFormat()}} {
			if c.good != "" && !slices.Contains(c.all, c.good) || c.good == "" && len(c.all) > 0 {
				b.Errorf("type %q has the %s formats %q of which %q is the default", t.GetName(), name, c.all, c.good)
			}
		}
	}
	if !rsp.GetTypes()[i].GetSupported() {
		b.Errorf("type %q is told to be of no use here (%s), and yet it started", b.pool.GetType(), rsp.GetTypes()[i].GetReason())
	}
}

func validateCompletes(b *bench) {
	again := b.validate(b.pool.GetXml())
	if again.GetXml() != b.pool.GetXml() || again.GetUuid() != b.pool.GetUuid() || again.GetName() != b.pool.GetName() {
		b.Errorf("what validate returned is changed by validating it: %s\nbecomes %s", b.pool.GetXml(), again.GetXml())
	}
	if _, err := uuid.Parse(b.pool.GetUuid()); err != nil || !strings.Contains(b.pool.GetXml(), b.pool.GetUuid()) {
		b.Errorf("the UUID %q is none, or not in the definition", b.pool.GetUuid())
	}
	if !strings.Contains(b.pool.GetXml(), "<name>"+b.pool.GetName()+"</name>") {
		b.Errorf("the name %q is not in the definition", b.pool.GetName())
	}
	rsp, err := b.pools.Validate(b.ctx(), &pb.ValidateRequest{Xml: b.pool.GetXml()})
	b.must("validate", err)
	if len(rsp.GetExclusive()) == 0 {
		b.Error("the definition has nothing that no other pool may have: two pools would be over one storage")
	}
	named := map[string]bool{}
	for _, s := range b.def.Secrets {
		named[s.GetUuid()], named[s.GetUsage()] = true, true
	}
	for _, s := range rsp.GetSecrets() {
		if (s.GetUuid() == "") == (s.GetUsage() == "") || s.GetUsageType() == "" || !named[s.GetUuid()+s.GetUsage()] {
			b.Errorf("the definition names the secret %v, which is none of the pool's", s)
		}
	}
	if len(rsp.GetSecrets()) != len(b.def.Secrets) {
		b.Errorf("%d secrets are named, the pool has %d", len(rsp.GetSecrets()), len(b.def.Secrets))
	}
}

func validateRefuses(b *bench) {
	good := b.pool.GetXml()
	for name, text := range map[string]string{
		"nothing":             "",
		"no XML":              "pool",
		"half a definition":   good[:len(good)/2],
		"another element":     "<domain><name>a</name></domain>",
		"an unknown type":     strings.Replace(good, "type='"+b.pool.GetType()+"'", "type='fantasy'", 1),
		"a UUID that is none": strings.Replace(good, b.pool.GetUuid(), "12345", 1),
		"an entity":           `<!DOCTYPE pool [<!ENTITY a "b">]>` + strings.Replace(good, "<name>", "<name>&a;", 1),
		"very deep nesting":   strings.Repeat("<pool>", 20_000) + strings.Repeat("</pool>", 20_000),
	} {
		_, err := b.pools.Validate(b.ctx(), &pb.ValidateRequest{Xml: text})
		b.wantCode(name, err, verr.XMLError, verr.ConfigUnsupported, verr.InvalidArg)
	}
}

func startsAndStops(b *bench) {
	active := func(when string, want bool) {
		b.Helper()
		rsp, err := b.pools.Check(b.ctx(), &pb.CheckRequest{Pool: b.pool})
		b.must(when+": check", err)
		if rsp.GetActive() != want && (want || !b.def.Standing) {
			b.Errorf("%s: the pool is told to be usable: %v", when, rsp.GetActive())
		}
	}
	stop := func() {
		b.Helper()
		_, err := b.pools.Stop(b.ctx(), &pb.StopRequest{Pool: b.pool})
		b.must("stop pool", err)
	}
	active("after its start", true)
	b.start()
	active("started twice", true)
	stop()
	active("after its stop", false)
	stop()
	active("stopped twice", false)
	b.start()
	active("started again", true)
	b.wantNames("started again")
}

func refreshTells(b *bench) {
	var names []string
	if b.has("VolumeService") {
		names = append(names, b.create().GetName(), b.create().GetName())
	}
	b.wantNames("refresh", names...)
	all, size := b.refresh()
	if size.GetCapacity() == 0 || size.GetAllocation() > size.GetCapacity() || size.GetAvailable() > size.GetCapacity() {
		b.Errorf("the size %v is none", size)
	}
	keys, paths := map[string]bool{}, map[string]bool{}
	for _, v := range all {
		if v.GetKey() == "" || v.GetPath() == "" || keys[v.GetKey()] || paths[v.GetPath()] {
			b.Errorf("volume %q has key %q and path %q, which are empty or another one's", v.GetName(), v.GetKey(), v.GetPath())
		}
		keys[v.GetKey()], paths[v.GetPath()] = true, true
		if v.GetType() == pb.VolumeType_VOLUME_TYPE_UNSPECIFIED {
			b.Errorf("volume %q has no type", v.GetName())
		}
		if v.GetType() == pb.VolumeType_VOLUME_TYPE_NETWORK && (v.GetNetwork().GetProtocol() == "" || v.GetNetwork().GetName() == "") {
			b.Errorf("volume %q is reached over a network, and it is not told how: %v", v.GetName(), v.GetNetwork())
		}
	}
}

func restartLosesNothing(b *bench) {
	v := b.some()
	data := pattern(min(b.factory.Capacity, 1<<20), 1)
	if b.has("TransferService") {
		b.write(v, data)
	}
	before, _ := b.refresh()
	b.core.Restart(b.T, b.factory.Plugin(), b.factory.Config)
	b.connect()
	rsp, err := b.pools.Check(b.ctx(), &pb.CheckRequest{Pool: b.pool})
	b.must("check after a restart", err)
	if !rsp.GetActive() {
		b.start()
	}
	after, _ := b.refresh()
	for name, v := range before {
		if w := after[name]; w.GetKey() != v.GetKey() || w.GetPath() != v.GetPath() || w.GetCapacity() != v.GetCapacity() {
			b.Errorf("volume %v is %v after a restart", v, w)
		}
	}
	if len(after) != len(before) {
		b.Errorf("there are %d volumes after a restart, before there were %d", len(after), len(before))
	}
	if b.has("TransferService") {
		got, _, err := b.read(&pb.DownloadRequest{Volume: v, Length: uint64(len(data))})
		if err != nil || string(got) != string(data) {
			b.Errorf("content is lost by a restart, error %v", err)
		}
	}
}
