package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/tests/rig"
)

// Marks before what held and what did not.
const (
	tick  = "\033[32m✓\033[0m"
	cross = "\033[31m✗\033[0m"
)

// connection is the connection whose guest is shown.
const connection = "qemu:///system"

// guestName is the name of the guest.
const guestName = "counter"

// patience bounds each wait for something that a guest in emulation does.
const patience = 30 * time.Second

// story is the host, the guest and those who watch it.
type story struct {
	host  *rig.Host
	dir   string
	image *rig.Image

	guest   rig.Process
	console *console
	probe   *rig.Probe
}

// say prints a line of what held.
func say(format string, args ...any) {
	fmt.Printf("  %s %s\n", tick, fmt.Sprintf(format, args...))
}

// config lets the host have the one driver that is shown.
const config = `[plugins]
enabled = ["qemu"]
`

// start starts the core.
func (s *story) start(ctx context.Context) error {
	etc := filepath.Join(s.host.Dir, "etc")
	if err := errors.Join(os.MkdirAll(etc, 0o700), os.WriteFile(filepath.Join(etc, "lodge.toml"), []byte(config), 0o600)); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	began := time.Now()
	if err := s.host.Start(ctx); err != nil {
		return err
	}
	say("lodged answers after %d ms (process %d, folder %s)", time.Since(began).Milliseconds(), s.host.PID(), s.host.Dir)
	version, err := s.virsh(ctx, "version")
	if err != nil {
		return err
	}
	for line := range strings.Lines(version) {
		if line = strings.TrimSpace(line); line != "" {
			say("virsh version: %s", line)
		}
	}
	return nil
}

// boot defines and starts the guest and waits until it counts.
func (s *story) boot(ctx context.Context) (err error) {
	if s.image, err = rig.BuildImage(".", s.dir); err != nil {
		return err
	}
	if err := s.define(ctx, guestName); err != nil {
		return err
	}
	say("virsh define %s: a kernel, an initramfs and a writable disk", guestName)
	began := time.Now()
	if _, err := s.virsh(ctx, "start", guestName); err != nil {
		return err
	}
	say("virsh start %s: answered after %d ms", guestName, time.Since(began).Milliseconds())
	found, err := s.host.Find(rig.Guest)
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d QEMU processes run, want 1", len(found))
	}
	s.guest = found[0]
	s.console = watchConsole(s.host)
	return s.counts(ctx, 3, began)
}

// counts waits until the guest has counted some steps further on its console.
func (s *story) counts(ctx context.Context, steps int, since time.Time) error {
	from := max(s.console.Count(), 0)
	if err := s.console.Await(ctx, from+steps, patience); err != nil {
		state, _ := s.virsh(ctx, "domstate", "--reason", guestName) // It may not answer, which is said by the empty text.
		return fmt.Errorf("%w (QEMU lives: %v, virsh calls it %q)", err, s.guest.Alive(), strings.TrimSpace(state))
	}
	say("the guest counts on its console: %d after %.1f s", s.console.Count(), time.Since(since).Seconds())
	return nil
}

// define defines a guest that boots the image.
func (s *story) define(ctx context.Context, name string) error {
	xml := fmt.Sprintf(`<domain type='qemu'>
  <name>%s</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>%s</kernel>
    <initrd>%s</initrd>
    <cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='%s'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='pty'/>
    <console type='pty'/>
  </devices>
</domain>
`, name, s.image.Kernel, s.image.Initramfs, s.image.Disk)
	path := filepath.Join(s.dir, name+".xml")
	if err := os.WriteFile(path, []byte(xml), 0o600); err != nil {
		return fmt.Errorf("write definition: %w", err)
	}
	_, err := s.virsh(ctx, "define", path)
	return err
}

// watchLock starts a probe of the lock that the lock daemon holds for the disk.
func (s *story) watchLock(ctx context.Context) error {
	locks, err := s.host.Locks(ctx)
	if err != nil {
		return err
	}
	for _, lock := range locks {
		if lock.GetOwnerName() != guestName {
			continue
		}
		if s.probe, err = rig.StartProbe(ctx, lock.GetPath()); err != nil {
			return err
		}
		say("the lock is on %s; it is looked at some thousand times a second", lock.GetPath())
		return nil
	}
	return fmt.Errorf("no lock of %s is among the %d locks that are held", guestName, len(locks))
}

// refuseSecond shows that the lock does what it is for.
func (s *story) refuseSecond(ctx context.Context) error {
	const second = "intruder"
	if err := s.define(ctx, second); err != nil {
		return err
	}
	_, err := s.virsh(ctx, "start", second)
	if err == nil {
		return errors.New("a second guest was started on the same disk")
	}
	_, reason, _ := strings.Cut(err.Error(), "error: ")
	say("refused: %s", strings.TrimSpace(lastLine(reason)))
	_, err = s.virsh(ctx, "undefine", second)
	return err
}

// kill returns a step that kills kinds of daemon at once and checks that nobody was hurt.
func (s *story) kill(kinds ...rig.Kind) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := s.awaitKinds(ctx, kinds); err != nil {
			return err
		}
		freeBefore := len(s.probe.Free())
		before := s.console.Count()
		disk := watchDisk(s.image.Disk)
		began := time.Now()
		killed, err := s.host.Kill(kinds...)
		if err != nil {
			return err
		}
		for _, p := range killed {
			say("killed %s (process %d)", p.Name, p.PID)
			if p.Kind == rig.Core {
				// A service manager would do this.
				if err := errors.Join(s.host.WaitCore(ctx), s.host.Launch()); err != nil {
					return err
				}
			}
		}
		if err := s.awaitList(ctx, began); err != nil {
			return err
		}
		if err := s.counts(ctx, 3, began); err != nil {
			return err
		}
		return s.unhurt(before, freeBefore, disk)
	}
}

// awaitKinds waits until each kind of daemon runs: one that was killed may be on its way back.
func (s *story) awaitKinds(ctx context.Context, kinds []rig.Kind) error {
	deadline := time.Now().Add(10 * time.Second)
	for _, kind := range kinds {
		for {
			found, err := s.host.Find(kind)
			if err != nil {
				return err
			}
			if len(found) > 0 {
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				return fmt.Errorf("no %s runs", kind)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

// awaitList runs virsh list until it shows the guest as running.
func (s *story) awaitList(ctx context.Context, began time.Time) error {
	for {
		list, err := s.virsh(ctx, "list")
		if err == nil && strings.Contains(list, guestName) && strings.Contains(list, "running") {
			say("virsh list answered again after %d ms, and shows the guest running", time.Since(began).Milliseconds())
			return nil
		}
		if time.Since(began) > 10*time.Second {
			return fmt.Errorf("virsh list does not show the guest: %q: %w", list, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// unhurt checks the guest's process, its counting and its lock after daemons were killed.
func (s *story) unhurt(before, freeBefore int, disk *disk) error {
	gap, steps := disk.Stop()
	if !s.guest.Alive() {
		return fmt.Errorf("QEMU (process %d) is gone", s.guest.PID)
	}
	if steps == 0 {
		return errors.New("the guest did not write to its disk meanwhile")
	}
	say("the guest kept counting: %d to %d, the same process, and at most %d ms between two writes to its disk", before, s.console.Count(), gap.Milliseconds())
	if free := s.probe.Free(); len(free) > freeBefore {
		return fmt.Errorf("the lock came free at %v", free[freeBefore:])
	}
	say("its lock never came free")
	return nil
}

// shutdown presses the guest's power button, ends the host, and checks that nothing is left.
func (s *story) shutdown(ctx context.Context) error {
	looks, free, err := s.probe.Stop()
	s.probe = nil
	if err != nil || len(free) > 0 {
		return errors.Join(fmt.Errorf("the lock came free at %v", free), err)
	}
	say("the lock was looked at %d times and was never free", looks)
	began := time.Now()
	if _, err := s.virsh(ctx, "shutdown", guestName); err != nil {
		return err
	}
	for {
		state, err := s.virsh(ctx, "domstate", guestName)
		if err == nil && strings.TrimSpace(state) == "shut off" {
			break
		}
		if time.Since(began) > patience {
			return fmt.Errorf("the guest does not shut down: %q: %w", state, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	say("virsh shutdown: the guest powered off after %.1f s", time.Since(began).Seconds())
	locks, err := s.host.Locks(ctx)
	if err != nil || len(locks) > 0 {
		return errors.Join(fmt.Errorf("%d locks are held after the end", len(locks)), err)
	}
	say("its lock was given back")
	if _, err := s.virsh(ctx, "undefine", guestName); err != nil {
		return err
	}
	return s.stopHost(ctx)
}

// stopHost ends the daemons orderly and checks that no process is left.
func (s *story) stopHost(ctx context.Context) error {
	s.console.Stop()
	s.console = nil
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := s.host.Stop(ctx); err != nil {
		return err
	}
	// On a machine the lock daemon and the plugins outlive the core on purpose; here they are to go as well.
	for _, kind := range []rig.Kind{rig.Plugin, rig.Lockd} {
		found, err := s.host.Find(kind)
		if err != nil {
			return err
		}
		for _, p := range found {
			if err := p.Signal(unix.SIGTERM); err != nil {
				return err
			}
		}
	}
	if err := s.host.AwaitGone(ctx, rig.Core, rig.Plugin, rig.Lockd, rig.Guest); err != nil {
		return err
	}
	say("the daemons have ended, and no process is left")
	return nil
}

// end removes whatever a failed step has left.
func (s *story) end(keep bool) error {
	if s.console != nil {
		s.console.Stop()
	}
	if s.probe != nil {
		_, _, _ = s.probe.Stop() // The step that failed has said more than this could.
	}
	if keep {
		fmt.Fprintf(os.Stderr, "the host's folder is kept: %s\n", s.dir)
		return s.host.End()
	}
	return errors.Join(s.host.Close(), os.RemoveAll(s.dir))
}

// virsh runs stock virsh on the host.
func (s *story) virsh(ctx context.Context, args ...string) (string, error) {
	return s.host.Virsh(ctx, connection, args...)
}

// lastLine returns the last line of a text that says something.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "error: ")
}
