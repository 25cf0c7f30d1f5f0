//go:build !cgo || !pacific

package librados

import (
	"errors"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
)

// errNotBuilt says why nothing can be done.
var errNotBuilt = errors.New("built without Ceph's libraries")

// Available reports whether there is a client, and else why not.
func Available() error { return errNotBuilt }

// Dial implements ceph.Dialer.
func Dial(ceph.Options) (ceph.Pool, error) { return nil, errNotBuilt }
