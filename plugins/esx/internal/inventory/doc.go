// Package inventory mirrors the virtual machines of an endpoint: the hypervisor keeps them, and the mirror answers every question about
// them from memory.
//
// A Mirror is a source of package follow, whose goroutine alone changes the state.
// Readers take the present Snapshot, which never changes, without a lock; it costs nothing to ask often. For each change the
// goroutine first publishes the snapshot that has it and then calls the function given to Start, in order and never twice at a time;
// while that function runs the mirror stands still.
//
// When the endpoint or the session is lost, the last snapshot stays and says since when it is stale; the mirror waits for the endpoint
// and reads everything anew, and only a complete reading takes the place of the old one. What happened meanwhile is told then, machine
// by machine, and after it Resynchronised. What happened and was undone meanwhile is not seen, but for a power cycle, which shows in the
// time of the boot. An endpoint that falls silent is noticed after Options.MaxWait and Options.Grace.
//
// Machines are known by their BIOS UUID (config.uuid), as libvirt's own driver knows them. A machine whose UUID the endpoint does not
// tell, because its files can't be reached or it is being created, is left out until it does; one that had told it keeps it.
package inventory
