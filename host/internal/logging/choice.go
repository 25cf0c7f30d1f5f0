package logging

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// journalSocket is where systemd's journal listens.
const journalSocket = "/run/systemd/journal/socket"

// Choice says what the outputs of a daemon are that nobody has configured, as libvirt's daemons choose.
type Choice struct {
	// Level is the general level.
	Level Level
	// Background says that the daemon has no terminal any more.
	Background bool
	// File is the log of a daemon in the background where there is no journal, and FolderMode the mode of its folder if it is
	// missing.
	File       string
	FolderMode os.FileMode
}

// Outputs returns the choice: the journal, if there is one, for a daemon that nobody watches; else the file in the background, whose
// folder is made, and stderr in the foreground.
func (c Choice) Outputs() (Outputs, error) {
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	watched := !c.Background && err == nil
	switch {
	case !watched && unix.Access(journalSocket, unix.W_OK) == nil:
		return Outputs{{Level: c.Level, Destination: Journald}}, nil
	case !c.Background:
		return Outputs{{Level: c.Level, Destination: Stderr}}, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.File), c.FolderMode); err != nil {
		return nil, fmt.Errorf("make folder for the log: %w", err)
	}
	return Outputs{{Level: c.Level, Destination: File, Target: c.File}}, nil
}
