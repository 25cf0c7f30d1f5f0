// Package driver is the driver of VMware ESX hosts and vCenter servers as the SDK wants it: it finds the connection that a URI means, keeps
// connections while somebody follows them, and passes calls on to the packages that do the work (guests, storage, network).
//
// A connection is made by the first Follow or call that names it, needs nobody to answer for that, and shares with others the process, and
// the session where the endpoint is the same. One that nobody follows or calls is closed after ten minutes; at most 256 are open at a time. When the plugin is configured
// anew, connections whose endpoint has changed are made anew behind the feed that they have.
//
// All methods are safe concurrently; the lock is never held across a call or a Close.
package driver
