package plugin

import (
	"context"

	"google.golang.org/grpc"

	"github.com/lodgevirt/lodge/sdk/contract"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// store is State over the core's StateService. A call waits for a core that is away for as long as its deadline allows; as every
// call of the service may be repeated, it is sent once more if the core goes away in the middle.
type store struct {
	client corev1.StateServiceClient
}

// Get implements State.
func (s store) Get(ctx context.Context, key string) ([]byte, bool, error) {
	resp, err := ask(ctx, corev1.StateService_Get_FullMethodName, s.client.Get, &corev1.GetRequest{Key: key})
	return resp.GetValue(), resp.GetFound(), err
}

// Put implements State.
func (s store) Put(ctx context.Context, key string, value []byte) error {
	_, err := ask(ctx, corev1.StateService_Put_FullMethodName, s.client.Put, &corev1.PutRequest{Key: key, Value: value})
	return err
}

// Delete implements State.
func (s store) Delete(ctx context.Context, key string) error {
	_, err := ask(ctx, corev1.StateService_Delete_FullMethodName, s.client.Delete, &corev1.DeleteRequest{Key: key})
	return err
}

// List implements State.
func (s store) List(ctx context.Context, prefix string) ([]string, error) {
	resp, err := ask(ctx, corev1.StateService_List_FullMethodName, s.client.List, &corev1.ListRequest{Prefix: prefix})
	return resp.GetKeys(), err
}

// ask calls the core within the deadline that the contract declares.
func ask[Q, R any](
	ctx context.Context, method string, call func(context.Context, *Q, ...grpc.CallOption) (*R, error), req *Q,
) (*R, error) {
	if declared, ok := contract.Lookup(method); ok && declared.Deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, declared.Deadline)
		defer cancel()
	}
	resp, err := call(ctx, req, grpc.WaitForReady(true))
	if unavailable(err) && ctx.Err() == nil {
		resp, err = call(ctx, req, grpc.WaitForReady(true))
	}
	if err != nil {
		return nil, verr.From(err)
	}
	return resp, nil
}
