package core

import (
	"context"
	"slices"

	"github.com/lodgevirt/lodge/host/internal/catalog"
	corev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/core/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Bounds of a plugin's values, in bytes.
const (
	maxKey   = 256
	maxValue = 1 << 20
)

// stateService keeps values for one plugin.
type stateService struct {
	corev1.UnimplementedStateServiceServer
	catalog *catalog.Catalog
	plugin  string
}

func checkKey(key string) error {
	if key == "" || len(key) > maxKey {
		return verr.Status(verr.New(verr.InvalidArg, "key has %d bytes, 1 to %d are allowed", len(key), maxKey))
	}
	return nil
}

func (s *stateService) Put(_ context.Context, req *corev1.PutRequest) (*corev1.PutResponse, error) {
	if err := checkKey(req.Key); err != nil {
		return nil, err
	}
	if len(req.Value) > maxValue {
		return nil, verr.Status(verr.New(verr.InvalidArg, "value of %q has %d bytes, at most %d are allowed", req.Key, len(req.Value), maxValue))
	}
	err := s.catalog.Update(func(tx *catalog.Tx) error { return tx.PutValue(s.plugin, req.Key, req.Value) })
	return &corev1.PutResponse{}, verr.Status(err)
}

func (s *stateService) Get(_ context.Context, req *corev1.GetRequest) (*corev1.GetResponse, error) {
	value, found, err := s.catalog.Value(s.plugin, req.Key)
	return &corev1.GetResponse{Found: found, Value: value}, verr.Status(err)
}

func (s *stateService) Delete(_ context.Context, req *corev1.DeleteRequest) (*corev1.DeleteResponse, error) {
	err := s.catalog.Update(func(tx *catalog.Tx) error { return tx.DeleteValue(s.plugin, req.Key) })
	return &corev1.DeleteResponse{}, verr.Status(err)
}

func (s *stateService) List(_ context.Context, req *corev1.ListRequest) (*corev1.ListResponse, error) {
	keys, err := s.catalog.Keys(s.plugin, req.Prefix)
	return &corev1.ListResponse{Keys: keys}, verr.Status(err)
}

// secretService hands out secrets that the operator lets a plugin have.
type secretService struct {
	corev1.UnimplementedSecretServiceServer
	part *part
}

func (s *secretService) Value(ctx context.Context, req *corev1.ValueRequest) (*corev1.ValueResponse, error) {
	if !slices.Contains(s.part.settings.Secrets, req.GetUuid()) {
		return nil, verr.Status(verr.New(verr.OperationDenied, "plugin %q may not have the secret '%s': add it to secrets in plugins.d/%s.toml",
			s.part.manifest.Name, req.GetUuid(), s.part.manifest.Name))
	}
	values, err := s.part.host.secrets.Values(ctx, []catalog.SecretRef{{UUID: req.GetUuid()}})
	if err != nil {
		return nil, verr.Status(err)
	}
	return &corev1.ValueResponse{Value: values[0].GetValue()}, nil
}
