// Package librados is package ceph's interface on the C libraries librados and librbd. It is all of the driver that is built with cgo, and that
// only with the build tag "pacific", which names the oldest release of these libraries that will do; without the tag Dial fails.
//
// Each connection has threads of its own in the libraries. Nothing here is global, so what waits on one cluster keeps nobody else waiting.
package librados
