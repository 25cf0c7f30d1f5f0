// Package storage shows the storage of an ESX host as libvirt's pools and volumes: its datastores, and the targets of its iSCSI adapter.
//
// A Store follows one host. It has one goroutine, which reads the host's datastores and devices with the endpoint's PropertyCollector and
// puts pools into a feed whenever something has changed; what becomes of the feed when the endpoint is lost is for its owner to say. The
// pools that were read last stay, and calls for them fail or succeed by themselves.
//
// A Driver finds the store of a pool's connection and hands each call to the backend of the pool's kind. A backend can do what it
// implements: package datastore everything, package iscsi reading; the rest is refused with VIR_ERR_NO_SUPPORT. Pools are made, started
// and stopped by the host, and never here. All methods are safe concurrently. Errors are verr errors of the storage domain.
package storage
