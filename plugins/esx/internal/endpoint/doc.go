// Package endpoint keeps the connection to an ESX host or a vCenter server: it logs in, proves who is there, keeps the session alive,
// renews it, and comes back after the endpoint was away.
//
// An Endpoint has one goroutine, which alone connects and keeps alive; Open starts it and Close waits for it. Nothing is connected
// before the first call that needs it. Callers that need a connection at once wait for one attempt, each within its own deadline.
// After a failed attempt callers get its error at once until the pause is over, which grows from Config.MinBackoff to
// Config.MaxBackoff; after a refused login it is Config.LoginBackoff. Endpoints share nothing, so that one that is dead or slow delays
// no other.
//
// A session that a call found expired is renewed, and the call is made once more: a call that is refused as NotAuthenticated has done
// nothing. After any other failure of the transport the session is proven before its next use; no call is repeated then.
//
// Errors are verr errors of domain FromESX that name the endpoint: AuthFailed for a refused login, OperationTimeout for an
// endpoint that does not answer a call in time, AccessDenied for a missing privilege, NoConnect for an endpoint that is not configured,
// and Internal for one that can't be reached or trusted, speaks nonsense, or answers with a fault, as libvirt's own driver has it; the
// cause stays for errors.As. All methods are safe concurrently.
package endpoint
