// Package node tells the facts of the machine that the core runs on: processors, memory, NUMA cells, firmware, and the <host>
// part of a capabilities document.
//
// Everything is read from /proc and /sys at the time of the call, below a root that tests can choose; nothing is written and
// nothing is kept but the options. All methods are safe concurrently. A file that a kernel does not have costs only the facts
// that are in it; an error means that not even a poor answer can be given. What is read is bounded in size.
//
// The formats are those of https://www.kernel.org/doc/Documentation/filesystems/proc.rst and
// https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-devices-node.
package node
