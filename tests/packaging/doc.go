// Package packaging tests what `make install` puts on a machine: the files, the units as systemd reads them, and the init script of the lock
// daemon, which is run for real. The tests install into folders of their own and run in mount namespaces, so they leave nothing behind.
package packaging
