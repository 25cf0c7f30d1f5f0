// Package contract reads what the contract declares about each of its calls: class and deadline. The core's supervisor and the
// SDK's server both enforce these, from the same source: the options in the .proto files.
//
// The table is built once, on first use, from the protobuf registry of the process; it is read only and safe concurrently.
package contract

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

// Call is what is declared of one RPC.
type Call struct {
	// Class says what may be done when the answer is lost.
	Class basev1.CallClass
	// Deadline is the longest wait for the answer, or for a stream's first message; 0 for streams without a limit.
	Deadline time.Duration
	// Stream tells whether either side streams.
	Stream bool
}

// table is what Lookup reads. It cannot be built before main: generated packages register themselves in init functions.
var table = sync.OnceValue(build)

// Lookup returns what is declared of a method named as gRPC does: "/package.Service/Method". It is false for methods that the
// contract does not have or does not class.
func Lookup(fullMethod string) (Call, bool) {
	call, ok := table()[fullMethod]
	return call, ok
}

// Methods returns every method of the contract's packages that this program has linked, including those without a class, with
// what is declared of each. For tests.
func Methods() map[string]Call {
	out := make(map[string]Call)
	eachMethod(func(name string, m protoreflect.MethodDescriptor) { out[name] = declared(m) })
	return out
}

func build() map[string]Call {
	calls := make(map[string]Call)
	eachMethod(func(name string, m protoreflect.MethodDescriptor) {
		if call := declared(m); call.Class != basev1.CallClass_CALL_CLASS_UNSPECIFIED {
			calls[name] = call
		}
	})
	return calls
}

func eachMethod(visit func(name string, m protoreflect.MethodDescriptor)) {
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "lodge.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				visit("/"+string(service.FullName())+"/"+string(m.Name()), m)
			}
		}
		return true
	})
}

func declared(m protoreflect.MethodDescriptor) Call {
	call := Call{Stream: m.IsStreamingClient() || m.IsStreamingServer()}
	opts, ok := m.Options().(*descriptorpb.MethodOptions)
	if !ok || !proto.HasExtension(opts, basev1.E_Call) {
		return call
	}
	if o, ok := proto.GetExtension(opts, basev1.E_Call).(*basev1.CallOptions); ok {
		call.Class = o.GetClass()
		call.Deadline = time.Duration(o.GetDeadlineMs()) * time.Millisecond
	}
	return call
}
