// Command fakeiscsiadm stands in for iscsiadm of version 2.1 in tests, and for the kernel and udev behind it. What it keeps and shows is in the
// folder that it lies in; package iscsiadmtest says what is there.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Exit statuses of iscsiadm(8).
const (
	exitAny       = 1
	exitDatabase  = 6
	exitInvalid   = 7
	exitTransport = 12
	exitExists    = 15
	exitDaemon    = 20
	exitNone      = 21
	exitSysfs     = 22
	exitDenied    = 24
)

type target struct {
	Name, Portal, User, Password string
	Disks                        []int64
}

// fake is one run.
type fake struct {
	dir  string
	lock *os.File // held to the end
	args map[string]string
}

func main() {
	self, err := os.Executable()
	if err != nil {
		fail(exitAny, "%v", err)
	}
	f := &fake{dir: filepath.Dir(self), args: map[string]string{}}
	f.log()
	for i := 1; i < len(os.Args); i++ {
		switch name := os.Args[i]; name {
		case "--login", "--logout", "--rescan":
			f.args[name] = "yes"
		default:
			if i+1 == len(os.Args) {
				fail(exitInvalid, "iscsiadm: option '%s' requires an argument", name)
			}
			i++
			f.args[name] = os.Args[i]
		}
	}
	if f.is("hang") && f.args["--login"] != "" {
		time.Sleep(time.Hour)
	}
	f.lock, err = os.OpenFile(f.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX)
	}
	must(err)
	modes := map[string]func(){"iface": f.iface, "node": f.node, "session": f.session, "discovery": f.discovery}
	do := modes[f.args["--mode"]]
	if do == nil {
		fail(exitInvalid, "iscsiadm: mode '%s' is not supported", f.args["--mode"])
	}
	do()
	must(f.lock.Close())
}

func fail(code int, format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(code)
}

func must(err error) {
	if err != nil {
		fail(exitAny, "iscsiadm: %v", err)
	}
}

func (f *fake) log() {
	file, err := os.OpenFile(f.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(err)
	_, err = fmt.Fprintln(file, strings.Join(os.Args[1:], " "))
	must(err)
}

func (f *fake) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fake) is(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

// put writes a file and the folders above it.
func put(name, text string) {
	must(os.MkdirAll(filepath.Dir(name), 0o700))
	must(os.WriteFile(name, []byte(text), 0o600))
}

func (f *fake) targets() []target {
	text, err := os.ReadFile(f.path("targets.json"))
	must(err)
	var all []target
	must(json.Unmarshal(text, &all))
	return all
}

// value reads a line of a record.
func value(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, " = "); ok && k == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (f *fake) iface() {
	name := f.path("ifaces", f.args["--interface"])
	switch f.args["--op"] {
	case "":
		text, err := os.ReadFile(name)
		if err != nil {
			fail(exitDatabase, "iSCSI ERROR: Failed to open %s using read mode: 2 No such file or directory", name)
		}
		fmt.Print(string(text))
	case "new":
		put(name, "iface.iscsi_ifacename = "+f.args["--interface"]+"\niface.transport_name = tcp\niface.initiatorname = <empty>\n")
	case "update":
		if f.is("nokernel") {
			fail(exitInvalid, "iscsiadm: Could not insert module tcp. Kmod error -2")
		}
		text, err := os.ReadFile(name)
		must(err)
		put(name, strings.Replace(string(text), f.args["--name"]+" = <empty>", f.args["--name"]+" = "+f.args["--value"], 1))
	}
}

// record is the file of a node whose group is not known.
func (f *fake) record() string {
	host, port, err := net.SplitHostPort(f.args["--portal"])
	must(err)
	return f.path("nodes", f.args["--targetname"], host+","+port)
}

func (f *fake) node() {
	name := f.record()
	if f.args["--op"] == "new" {
		put(name, "# BEGIN RECORD 2.1.8\nnode.name = "+f.args["--targetname"]+"\nnode.startup = automatic\niface.iscsi_ifacename = "+
			f.args["--interface"]+"\nnode.session.auth.authmethod = None\n# END RECORD\n")
		return
	}
	text, err := os.ReadFile(name)
	if err != nil {
		fail(exitNone, "iscsiadm: No records found")
	}
	if f.args["--login"] != "" {
		f.login(string(text))
	}
}

func (f *fake) login(record string) {
	switch {
	case f.is("nokernel"), f.is("nodaemon"):
		fail(exitDaemon, "iscsiadm: can not connect to iSCSI daemon (111)!\niscsiadm: initiator reported error (20 - could not connect to iscsid)")
	}
	for _, t := range f.targets() {
		if t.Name != f.args["--targetname"] || t.Portal != f.args["--portal"] {
			continue
		}
		if t.User != "" && (value(record, "node.session.auth.authmethod") != "CHAP" ||
			value(record, "node.session.auth.username") != t.User || value(record, "node.session.auth.password") != t.Password) {
			fail(exitDenied, "iscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure)")
		}
		if f.loggedIn(t) {
			fail(exitExists, "iscsiadm: default: 1 session requested, but 1 already present.")
		}
		f.show(t)
		return
	}
	fail(19, "iscsiadm: initiator reported error (19 - encountered non-retryable iSCSI login failure)")
}

// loggedIn reports whether there is a session of the target by the same interface already.
func (f *fake) loggedIn(t target) bool {
	all, err := filepath.Glob(f.path("sys/class/iscsi_session/session*"))
	must(err)
	for _, dir := range all {
		name, _ := os.ReadFile(filepath.Join(dir, "targetname"))
		iface, _ := os.ReadFile(filepath.Join(dir, "ifacename"))
		if strings.TrimSpace(string(name)) == t.Name && strings.TrimSpace(string(iface)) == f.args["--interface"] {
			return true
		}
	}
	return false
}

// show makes a session of a target, at once as the kernel does, also when this process is killed.
func (f *fake) show(t target) {
	id := 1
	for f.is(fmt.Sprintf("sys/class/iscsi_session/session%d", id)) {
		id++
	}
	host, port, err := net.SplitHostPort(t.Portal)
	must(err)
	iface, err := os.ReadFile(f.path("ifaces", f.args["--interface"]))
	must(err)
	name := value(string(iface), "iface.initiatorname")
	if name == "<empty>" {
		name = "iqn.of.this:host"
	}
	conn := f.path("sys/class/iscsi_connection", fmt.Sprintf("connection%d:0", id))
	put(filepath.Join(conn, "persistent_address"), host+"\n")
	put(filepath.Join(conn, "persistent_port"), port+"\n")
	dir := f.path("sys/making")
	must(os.RemoveAll(dir))
	for attr, text := range map[string]string{
		"initiatorname": name, "ifacename": f.args["--interface"], "state": "LOGGED_IN", "targetname": t.Name,
	} {
		put(filepath.Join(dir, attr), text+"\n")
	}
	f.scan(dir, id, t)
	must(os.MkdirAll(f.path("sys/class/iscsi_session"), 0o700))
	must(os.Rename(dir, f.path("sys/class/iscsi_session", fmt.Sprintf("session%d", id))))
}

// scan shows the units of a session.
func (f *fake) scan(dir string, id int, t target) {
	for n, size := range append([]int64{0}, t.Disks...) {
		unit := filepath.Join(dir, fmt.Sprintf("device/target%d:0:0/%d:0:0:%d", id, id, n))
		kind := "0"
		if n == 0 {
			kind = "12"
		}
		put(filepath.Join(unit, "type"), kind+"\n")
		if n == 0 {
			continue
		}
		serial := fmt.Sprintf("IET     %04d%04d", id, n)
		put(filepath.Join(unit, "vpd_pg83"), string([]byte{0, 0x83, 0, byte(4 + len(serial)), 2, 1, 0, byte(len(serial))})+serial)
		device := fmt.Sprintf("sd%c%c", 'a'+id, 'a'+n)
		put(filepath.Join(unit, "block", device, "size"), strconv.FormatInt(size/512, 10)+"\n")
		if f.is("dev/" + device) {
			continue
		}
		put(f.path("dev", device), "")
		must(os.Truncate(f.path("dev", device), size))
		if !f.is("nolinks") {
			must(os.MkdirAll(f.path("dev/disk/by-path"), 0o700))
			link := f.path("dev/disk/by-path", fmt.Sprintf("ip-%s-iscsi-%s-lun-%d", t.Portal, t.Name, n))
			_ = os.Remove(link)
			must(os.Symlink("../../"+device, link))
		}
	}
}

func (f *fake) session() {
	id, err := strconv.Atoi(f.args["--sid"])
	must(err)
	dir := f.path("sys/class/iscsi_session", "session"+f.args["--sid"])
	name, err := os.ReadFile(filepath.Join(dir, "targetname"))
	if err != nil {
		fail(exitSysfs, "iscsiadm: Could not get session info for sid %d", id)
	}
	if f.args["--logout"] != "" {
		f.hide(dir, id, strings.TrimSpace(string(name)))
		return
	}
	for _, t := range f.targets() {
		if t.Name == strings.TrimSpace(string(name)) {
			f.scan(dir, id, t)
		}
	}
}

// hide ends a session, at once as show makes it; links and devices go after it.
func (f *fake) hide(dir string, id int, target string) {
	gone := f.path("sys/gone")
	must(os.RemoveAll(gone))
	must(os.Rename(dir, gone))
	devices, err := filepath.Glob(filepath.Join(gone, "device/target*/*/block/*"))
	must(err)
	links, err := filepath.Glob(f.path("dev/disk/by-path/*-iscsi-" + target + "-lun-*"))
	must(err)
	for _, d := range devices {
		_ = os.Remove(f.path("dev", filepath.Base(d)))
	}
	for _, l := range links {
		_ = os.Remove(l)
	}
	must(os.RemoveAll(gone))
	must(os.RemoveAll(f.path("sys/class/iscsi_connection", fmt.Sprintf("connection%d:0", id))))
}

func (f *fake) discovery() {
	if f.is("nokernel") {
		fail(exitTransport, "iscsiadm: iSCSI driver tcp is not loaded. Load the module then retry the command.")
	}
	found := false
	for _, t := range f.targets() {
		if t.Portal == f.args["--portal"] {
			found = true
			fmt.Printf("%s,1 %s\n", t.Portal, t.Name)
		}
	}
	if !found {
		fail(exitNone, "iscsiadm: No portals found")
	}
}
