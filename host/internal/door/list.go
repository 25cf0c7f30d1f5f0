package door

import "github.com/lodgevirt/lodge/sdk/verr"

// What calls about objects have in common on the wire; every kind of object has messages of its own with these fields.
type (
	countRet  struct{ Num int32 }
	namesArgs struct{ Maxnames int32 }
	namesRet  struct{ Names []string }
	listArgs  struct {
		NeedResults int32
		Flags       uint32
	}
	listRet[R any] struct {
		Objects []R
		Ret     uint32
	}
	nameArgs         struct{ Name string }
	refArgs[R any]   struct{ Ref R }
	flagsArgs[R any] struct {
		Ref   R
		Flags uint32
	}
	refRet[R any] struct{ Ref R }
	xmlRet        struct{ XML string }
	boolRet       struct{ Is int32 }
)

// maxObjects is how many objects of a kind one list has at most; libvirt's clients refuse more.
const maxObjects = 16384

// family is a kind of object that a connection lists: V is what is known of one, and R is how clients know it.
type family[V, R any] struct {
	// plural is what messages call them.
	plural string
	// function is the name of the list in libvirt's API, and known are its flags.
	function string
	known    uint32
	// all returns all of them, from memory.
	all func(s *session) []V
	// passes reports whether one passes the flags of the list.
	passes func(v *V, flags uint32) bool
	// name and reference are what clients get.
	name      func(v *V) string
	reference func(v *V) R
}

// that returns those that pass the flags of the list.
func (f *family[V, R]) that(s *session, flags uint32) ([]V, error) {
	var out []V
	for _, v := range f.all(s) {
		if f.passes(&v, flags) {
			out = append(out, v)
		}
	}
	return out, few(len(out), f.plural)
}

// count makes a handler that tells how many pass.
func (f *family[V, R]) count(flags uint32) *handler {
	return memory(func(s *session, _ *void) (*countRet, error) {
		all, err := f.that(s, flags)
		return &countRet{int32(len(all))}, err
	})
}

// names makes a handler that tells the names of those that pass, as many as the client has room for.
func (f *family[V, R]) names(flags uint32) *handler {
	return memory(func(s *session, args *namesArgs) (*namesRet, error) {
		if err := room(args.Maxnames, "names"); err != nil {
			return nil, err
		}
		all, err := f.that(s, flags)
		return &namesRet{each(firstOf(all, args.Maxnames), f.name)}, err
	})
}

// list makes a handler of the list whose flags the client chooses.
func (f *family[V, R]) list() *handler {
	return memory(func(s *session, args *listArgs) (*listRet[R], error) {
		if err := checkFlags(args.Flags, f.known, f.function); err != nil {
			return nil, err
		}
		all, err := f.that(s, args.Flags)
		return &listRet[R]{needed(all, args.NeedResults, f.reference), uint32(len(all))}, err
	})
}

// few checks that a list is not longer than clients take.
func few(n int, what string) error {
	if n > maxObjects {
		return verr.New(verr.RPC, "too many %s %d for limit %d", what, n, maxObjects)
	}
	return nil
}

// needed is what clients get of a list: nothing if they only count.
func needed[V, R any](list []V, need int32, convert func(*V) R) []R {
	if need == 0 {
		return nil
	}
	return each(list, convert)
}

// each converts the entries of a list.
func each[V, R any](list []V, convert func(*V) R) []R {
	out := make([]R, len(list))
	for i := range list {
		out[i] = convert(&list[i])
	}
	return out
}

// picks reports whether a pair of a list's flags lets through what is so or not: without either of them everything passes.
func picks[F ~int32 | ~uint32](flags F, so bool, yes, no F) bool {
	return flags&(yes|no) == 0 || so && flags&yes != 0 || !so && flags&no != 0
}
