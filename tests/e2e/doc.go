// Package e2e tests the built daemons as a whole with the clients that people use: stock virsh, virt-install, python3-libvirt and
// go-libvirt, against a private host for each test. It also does to them what must not hurt: garbage on the socket, thousands of
// connections, hostile XML, and SIGKILL at random moments.
//
// A test whose tool is not installed is skipped and says so; `make deps` installs all of them. The daemons are taken from $LODGE_BIN, or
// built into a temporary folder. Every host ends with its test; the folder of one whose
// test has failed is kept if $LODGE_KEEP is set.
package e2e
