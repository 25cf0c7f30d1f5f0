package lockd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// eyeEnv says that a process was started as an eye.
const eyeEnv = "LODGE_LOCKD_EYE"

// Sight is what an eye sees of a file's first byte.
type Sight byte

// Sights.
const (
	// Missing says that there is no file.
	Missing Sight = '-'
	// Free says that nobody has a lock.
	Free Sight = 'f'
	// Read says that somebody has a shared lock.
	Read Sight = 'r'
	// Written says that somebody has an exclusive lock.
	Written Sight = 'w'
	// Unseen says that the file could not be looked at.
	Unseen Sight = '?'
)

// String returns the sight in a word.
func (s Sight) String() string {
	return map[Sight]string{Missing: "missing", Free: "free", Read: "shared", Written: "exclusive"}[s]
}

// Eye is a process that looks at locks and takes none.
type Eye struct {
	cmd *exec.Cmd
	in  *bufio.Writer
	end io.Closer
	out *bufio.Reader
}

// RunEye turns this process into an eye if it was started as one, and then does not return.
func RunEye() {
	if os.Getenv(eyeEnv) == "" {
		return
	}
	out := bufio.NewWriter(os.Stdout)
	for in := bufio.NewReader(os.Stdin); ; {
		path, err := in.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		if path == "\n" {
			err = out.Flush()
		} else {
			err = out.WriteByte(byte(look(path[:len(path)-1])))
		}
		if err != nil {
			os.Exit(1)
		}
	}
}

// look asks the kernel whether an exclusive lock could be had.
func look(path string) Sight {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return Missing
	}
	if err != nil {
		return Unseen
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return Unseen
	}
	switch lock.Type {
	case unix.F_UNLCK:
		return Free
	case unix.F_RDLCK:
		return Read
	}
	return Written
}

// Open starts an eye.
func Open(ctx context.Context) (*Eye, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe")
	cmd.Env = append(os.Environ(), eyeEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open eye: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("open eye: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("open eye: %w", err)
	}
	return &Eye{cmd: cmd, in: bufio.NewWriter(in), end: in, out: bufio.NewReader(out)}, nil
}

// Look looks at files.
func (e *Eye) Look(paths ...string) ([]Sight, error) {
	seen := make([]byte, 0, len(paths))
	// Both pipes are smaller than all that may be asked at once.
	for len(paths) > 0 {
		some := paths[:min(len(paths), 500)]
		paths = paths[len(some):]
		for _, path := range some {
			_, _ = e.in.WriteString(path + "\n") // An error stays with the writer until it is flushed.
		}
		_, _ = e.in.WriteString("\n")
		if err := e.in.Flush(); err != nil {
			return nil, fmt.Errorf("look at locks: %w", err)
		}
		part := make([]byte, len(some))
		if _, err := io.ReadFull(e.out, part); err != nil {
			return nil, fmt.Errorf("look at locks: %w", err)
		}
		seen = append(seen, part...)
	}
	sights := make([]Sight, len(seen))
	for i, s := range seen {
		sights[i] = Sight(s)
	}
	return sights, nil
}

// Close ends the eye.
func (e *Eye) Close() error {
	_ = e.end.Close() // It ends by that.
	timer := time.AfterFunc(endWait, func() { _ = e.cmd.Process.Kill() })
	defer timer.Stop()
	if err := e.cmd.Wait(); err != nil {
		return fmt.Errorf("close eye: %w", err)
	}
	return nil
}
