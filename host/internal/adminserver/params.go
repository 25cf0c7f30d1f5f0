package adminserver

import (
	"github.com/lodgevirt/lodge/host/internal/adminproto"
	"github.com/lodgevirt/lodge/sdk/verr"
)

func uintParam(name string, n uint32) adminproto.Param {
	return adminproto.Param{Field: name, Value: adminproto.Value{D: adminproto.TypeUint, I: n}}
}

func intParam(name string, n int32) adminproto.Param {
	return adminproto.Param{Field: name, Value: adminproto.Value{D: adminproto.TypeInt, I: n}}
}

func textParam(name, text string) adminproto.Param {
	return adminproto.Param{Field: name, Value: adminproto.Value{D: adminproto.TypeString, I: text}}
}

func boolParam(name string, yes bool) adminproto.Param {
	var n int32
	if yes {
		n = 1
	}
	return adminproto.Param{Field: name, Value: adminproto.Value{D: adminproto.TypeBoolean, I: n}}
}

// typeNames are the types as people say them.
var typeNames = map[uint32]string{
	adminproto.TypeInt: "int", adminproto.TypeUint: "uint", adminproto.TypeLlong: "llong", adminproto.TypeUllong: "ullong",
	adminproto.TypeDouble: "double", adminproto.TypeBoolean: "boolean", adminproto.TypeString: "string",
}

// readUints stores the values of parameters by their names. All are of type uint, each may be given once, and none is needed.
func readUints(params []adminproto.Param, into map[string]*uint32) error {
	seen := map[string]bool{}
	for _, p := range params {
		dst, ok := into[p.Field]
		if !ok {
			return verr.New(verr.ArgumentUnsupported, "parameter %q cannot be set", p.Field)
		}
		n, ok := p.Value.I.(uint32)
		if !ok {
			return verr.New(verr.InvalidArg, "parameter %q is of type %s, expected uint", p.Field, typeNames[p.Value.D])
		}
		if seen[p.Field] {
			return verr.New(verr.InvalidArg, "parameter %q is given twice", p.Field)
		}
		seen[p.Field] = true
		*dst = n
	}
	return nil
}
