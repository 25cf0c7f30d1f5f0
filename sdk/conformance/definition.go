package conformance

import (
	"strings"

	"github.com/lodgevirt/lodge/sdk/domxml"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func probeTellsType(b *bench) {
	rsp, err := b.driver.Probe(b.ctx(), &pb.ProbeRequest{Connection: b.factory.Connection})
	if err != nil {
		b.Fatalf("probe: %v", err)
	}
	if rsp.GetType() == "" {
		b.Error("the type is empty")
	}
	if xml := rsp.GetCapabilitiesXml(); xml != "" {
		if err := domxml.Check(xml, "capabilities"); err != nil {
			b.Errorf("capabilities document: %v", err)
		}
	}
	for _, seed := range rsp.GetSeeds() {
		if _, err := b.driver.Validate(b.ctx(), &pb.ValidateRequest{Connection: b.factory.Connection, Xml: seed.GetXml()}); err != nil {
			b.Errorf("the driver does not accept its own seed: %v", err)
		}
	}
}

func validateIsIdempotent(b *bench) {
	g := b.newGuest("conformance")
	rsp, err := b.driver.Validate(b.ctx(), &pb.ValidateRequest{Connection: b.factory.Connection, Xml: g.xml})
	if err != nil {
		b.Fatalf("validate what was validated: %v", err)
	}
	if rsp.GetXml() != g.xml {
		b.Errorf("validating what Validate returned changes it from\n%s\nto\n%s", g.xml, rsp.GetXml())
	}
	if s := rsp.GetSummary(); s.GetName() != g.Name || s.GetUuid() != g.Uuid || s.GetMaxMemoryKib() == 0 || s.GetMaxVcpus() == 0 {
		b.Errorf("summary %v is not that of %q", s, g.Name)
	}
	b.wantState(g, pb.State_STATE_SHUTOFF) // it keeps nothing
}

func validateRefusesHostileText(b *bench) {
	good := b.factory.Definition("conformance", "6695eb01-f6a4-8304-79aa-97f2502e1930")
	for what, xml := range map[string]string{
		"nothing":         "",
		"no XML":          "hello",
		"an open element": strings.TrimSuffix(strings.TrimSpace(good), "</domain>"),
		"another root":    "<network/>",
		"an entity":       "<!DOCTYPE domain [<!ENTITY a 'b'>]>" + good,
		"a deep nesting":  "<domain>" + strings.Repeat("<a>", 10000) + strings.Repeat("</a>", 10000) + "</domain>",
	} {
		_, err := b.driver.Validate(b.ctx(), &pb.ValidateRequest{Connection: b.factory.Connection, Xml: xml})
		b.wantCode(what, err, verr.XMLError)
	}
}
