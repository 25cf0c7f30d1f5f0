// Package guests keeps the virtual machines of one connection: what is told of them, and what is done with them.
//
// A Guests follows a place of an endpoint's inventory with a mirror (package inventory) and puts its machines, their events and their
// host into a feed. Definitions, which are large, are read in the background after the machines are known and whenever a machine's
// configuration changes, a few machines at a time; Describe reads one at once. Nothing is polled.
//
// A change runs as a task of the endpoint and is waited for. Its time is that of its context, less what is needed to end it in an orderly
// way: when it is over, the task is cancelled, and the error says whether that worked. Only suspending and resuming, which take as long as
// the machine is large, are left alone. After a task the feed is waited for, so that the answer's number is that of a message which has the
// change. A lost connection does not end a task at the endpoint; it is found again as long as there is time.
//
// A machine that waits for an answer to a question holds up its tasks: with Options.AutoAnswer questions are answered with their defaults,
// without it the task is cancelled and the error has the question and the answers that there are.
//
// All methods are safe concurrently; no lock is held across a call. Errors are verr errors of domain FromESX.
package guests
