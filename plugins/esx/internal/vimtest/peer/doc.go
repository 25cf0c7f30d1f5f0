// Package peer makes a simulated endpoint good enough for libvirt's own ESX driver, against which ours is measured and compared.
//
// That driver needs more than ours: it demands the type of each item of an array (Handler adds it to the simulator's answers), the path of
// each datastore's mount, and a .vmx file for each machine, which it reads instead of the machine's configuration (Prepare makes both).
// Machines that come later have no file unless Prepare is called again.
package peer
