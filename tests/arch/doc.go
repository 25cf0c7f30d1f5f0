// Package arch holds the rules of the tree as tests: which folder may import which, what the SDK may depend on, that every package
// says what it is for, how long files and functions may be, and that every RPC of the contract declares its class and deadline. A
// rule that is not checked here is advice.
//
// The tests read source files only and build nothing, so they are quick and need no network.
package arch
