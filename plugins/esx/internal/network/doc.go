// Package network shows the virtual switches of a host as libvirt's networks and its physical NICs as libvirt's interfaces, and makes,
// changes and removes switches.
//
// A Networks is a source of package follow: the host keeps everything, and whatever it tells is put into the connection's feed, where a
// change is seen as soon as the host has told it. The networks of an endpoint that is away stay in the feed as they were last; whether
// they are stale the driver says, not this package.
//
// What is shown, and its UUID, are those of libvirt's own driver: a network is a switch, its UUID the MD5 sum of the switch's key, its
// forward interfaces are the switch's physical NICs, its portgroups those that machines can use. Beyond libvirt the VLAN of a port group
// is shown, and the MTU of a switch where it is not the default. Port groups that the hypervisor uses itself (of VMkernel NICs and of a
// service console) are neither shown nor ever changed.
//
// Changes of one host take turns. Each reads the configuration anew, checks everything that can be checked, and only then goes step by
// step; when a step fails, those before it are taken back, and so is the failed one if it is not known whether it was done. What could
// not be taken back within some seconds is named in the error. Errors are verr errors of domain FromNetwork, or those of the endpoint.
//
// All methods are safe concurrently.
package network
