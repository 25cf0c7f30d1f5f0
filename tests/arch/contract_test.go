package arch

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
	_ "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	_ "github.com/lodgevirt/lodge/sdk/proto/lodge/hypervisor/v1"
)

// TestEveryCallHasClassAndDeadline looks at every RPC of the contract that is compiled in.
func TestEveryCallHasClassAndDeadline(t *testing.T) {
	calls := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "lodge.") {
			return true
		}
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				calls++
				checkCall(t, methods.Get(j))
			}
		}
		return true
	})
	if calls == 0 {
		t.Error("no RPC was found: the test looks at the wrong place")
	}
}

// checkCall checks the options of one RPC.
func checkCall(t *testing.T, method protoreflect.MethodDescriptor) {
	t.Helper()
	options, ok := proto.GetExtension(method.Options(), basev1.E_Call).(*basev1.CallOptions)
	if !ok || options.GetClass() == basev1.CallClass_CALL_CLASS_UNSPECIFIED {
		t.Errorf("%s does not say its class", method.FullName())
		return
	}
	stream := method.IsStreamingClient() || method.IsStreamingServer()
	if options.GetDeadlineMs() == 0 && !stream {
		t.Errorf("%s has no deadline", method.FullName())
	}
}
