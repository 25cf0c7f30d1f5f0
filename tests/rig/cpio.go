package rig

import (
	"bytes"
	"fmt"
)

// The kinds of file in an archive, as in stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// entry is a file of an archive; a link's data is its target.
type entry struct {
	name string
	mode uint32
	data []byte
}

// archive writes entries in the "newc" format of cpio, which the kernel unpacks as its initial file system
// (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).
func archive(entries []entry) []byte {
	var out bytes.Buffer
	pad := func() {
		for out.Len()%4 != 0 {
			out.WriteByte(0)
		}
	}
	write := func(inode int, e entry) {
		// magic, inode, mode, uid, gid, links, mtime, size, device x 4, length of the name, check
		fmt.Fprintf(&out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			inode, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, 0, 0, len(e.name)+1, 0)
		out.WriteString(e.name)
		out.WriteByte(0)
		pad()
		out.Write(e.data)
		pad()
	}
	for i, e := range entries {
		write(i+1, e)
	}
	write(0, entry{name: "TRAILER!!!"})
	return out.Bytes()
}
