// Command fakedog stands in for sheepdog's dog in tests. What it keeps is in the folder that it lies in: "state", a list of images, a file
// for the content of each, and switches: "down" (no node answers), "unformatted", "hang", and "replay", a list of recorded runs.
//
// One run after the other changes the state, and each changes it at once, as a cluster does.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	maxName    = 255
	maxSize    = 4 << 40
	objectSize = 4 << 20
	exitUsage  = 64
)

// image is an image or, with a tag, a snapshot.
type image struct {
	Name string `json:"name"`
	Snap int    `json:"snap"`
	Tag  string `json:"tag"`
	Size int64  `json:"size"`
	Made int64  `json:"made"`
	VDI  int    `json:"vdi"`
	Kind string `json:"kind"`
}

type state struct {
	Next   int      `json:"next"`
	Images []*image `json:"images"`
}

// fake is one run.
type fake struct {
	dir  string
	lock *os.File // held to the end
	addr string
	tag  string
	raw  bool
	args []string
	state
}

func main() {
	self, err := os.Executable()
	if err != nil {
		fail(1, "%v", err)
	}
	f := &fake{dir: filepath.Dir(self), addr: "127.0.0.1:7000"}
	f.lock, err = os.OpenFile(f.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		fail(1, "%v", err)
	}
	if f.is("hang") {
		time.Sleep(time.Hour)
	}
	if err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX); err != nil {
		fail(1, "%v", err)
	}
	f.replay()
	f.parse(os.Args[1:])
	f.load()
	f.run()
	_ = f.lock.Close() // it ends with the process
}

func (f *fake) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fake) is(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

func fail(code int, format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(code)
}

// replay answers by the next recorded run, if there is one.
func (f *fake) replay() {
	text, err := os.ReadFile(f.path("replay"))
	line, rest, ok := strings.Cut(string(text), "\n")
	parts := strings.Split(line, "\t")
	if err != nil || !ok || len(parts) != 3 {
		return
	}
	if err := os.WriteFile(f.path("replay"), []byte(rest), 0o600); err != nil {
		fail(1, "%v", err)
	}
	for name, to := range map[string]*os.File{parts[1]: os.Stdout, parts[2]: os.Stderr} {
		if text, err := os.ReadFile(name); err == nil {
			_, _ = to.Write(text)
		}
	}
	code, _ := strconv.Atoi(parts[0])
	os.Exit(code)
}

// parse takes options out of the arguments, wherever they are.
func (f *fake) parse(args []string) {
	host, port := "127.0.0.1", "7000"
	values := map[string]*string{"-a": &host, "-p": &port, "-s": &f.tag}
	for i := 0; i < len(args); i++ {
		switch to := values[args[i]]; {
		case to != nil && i+1 < len(args):
			i++
			*to = args[i]
		case args[i] == "-r":
			f.raw = true
		case strings.HasPrefix(args[i], "-"):
			fail(exitUsage, "dog: invalid option -- '%s'\nTry 'dog --help' for more information.", strings.TrimLeft(args[i], "-"))
		default:
			f.args = append(f.args, args[i])
		}
	}
	f.addr = host + ":" + port
}

func (f *fake) load() {
	text, err := os.ReadFile(f.path("state"))
	if err == nil {
		err = json.Unmarshal(text, &f.state)
	}
	if err != nil && !os.IsNotExist(err) {
		fail(1, "%v", err)
	}
}

func (f *fake) save() {
	text, err := json.Marshal(f.state)
	if err == nil {
		err = os.WriteFile(f.path("state.new"), text, 0o600)
	}
	if err == nil {
		err = os.Rename(f.path("state.new"), f.path("state"))
	}
	if err != nil {
		fail(1, "%v", err)
	}
}

func (f *fake) run() {
	if len(f.args) < 2 {
		fail(exitUsage, "Invalid command")
	}
	what := f.args[0] + " " + f.args[1]
	f.args = f.args[2:]
	if f.is("down") {
		refused := "failed to connect to " + f.addr + ": Connection refused\nfailed to connect to " + f.addr + ": Connection refused"
		if what == "node info" {
			refused += "\nFailed to get node list"
		}
		fail(2, "%s", refused)
	}
	runs := map[string]func(){
		"node info": f.info, "vdi list": f.list, "vdi create": f.create, "vdi delete": f.remove, "vdi resize": f.resize,
		"vdi snapshot": f.snapshot, "vdi clone": f.clone, "vdi read": f.read, "vdi write": f.write,
	}
	do := runs[what]
	if do == nil {
		fail(exitUsage, "Invalid command '%s'", what)
	}
	do()
}

func (f *fake) info() {
	const total = 1 << 40
	if f.is("unformatted") {
		fail(2, "Response's result: Waiting for cluster to be formatted\nCannot get information from any nodes")
	}
	var used, sizes int64
	for _, i := range f.Images {
		used += f.used(i)
		sizes += i.Size
	}
	fmt.Printf("0 %d %d %d 0%%\nTotal %d %d %d 0%% %d\n", int64(total), used, total-used, int64(total), used, total-used, sizes)
}

func (f *fake) data(i *image) string { return f.path(fmt.Sprintf("data-%x", i.VDI)) }

func (f *fake) used(i *image) int64 {
	var st syscall.Stat_t
	if syscall.Stat(f.data(i), &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

func (f *fake) list() {
	if f.is("unformatted") {
		return
	}
	escape := strings.NewReplacer(`\`, `\\`, " ", `\ `)
	for _, i := range f.Images {
		if len(f.args) > 0 && f.args[0] != i.Name {
			continue
		}
		fmt.Printf("%s %s %d %d %d 0 %d %x 2 %s 22\n", i.Kind, escape.Replace(i.Name), i.Snap, i.Size, f.used(i), i.Made, i.VDI, i.Tag)
	}
}

// find finds an image, or its snapshot that -s names.
func (f *fake) find(name string) *image {
	for _, i := range f.Images {
		if i.Name == name && (f.tag == "" && i.Snap == 0 || f.tag != "" && i.Snap != 0 && (f.tag == i.Tag || f.tag == strconv.Itoa(i.Snap))) {
			return i
		}
	}
	return nil
}

func (f *fake) missing(code int, name string) {
	fail(code, "Failed to open VDI %s (snapshot id: 0 snapshot tag: %s): No VDI found", name, f.tag)
}

func (f *fake) must(name string) *image {
	i := f.find(name)
	if i == nil {
		f.missing(1, name)
	}
	return i
}

func (f *fake) name(n int) string {
	if n >= len(f.args) {
		fail(exitUsage, "Please specify the VDI name")
	}
	return f.args[n][:min(len(f.args[n]), maxName)]
}

func (f *fake) size(n int) int64 {
	if n >= len(f.args) {
		fail(exitUsage, "Please specify the VDI size")
	}
	size, err := strconv.ParseInt(f.args[n], 10, 64)
	if err != nil {
		fail(exitUsage, "Invalid size '%s'", f.args[n])
	}
	return size
}

func (f *fake) add(i image) *image {
	f.Next++
	i.VDI, i.Made = f.Next, time.Now().Unix()
	f.Images = append(f.Images, &i)
	return &i
}

func (f *fake) create() {
	name, size := f.name(0), f.size(1)
	switch {
	case size > maxSize:
		fail(exitUsage, "VDI size is larger than 4.0 TB bytes, please use '-y' to create a hyper volume")
	case f.is("unformatted"):
		fail(1, "Failed to create VDI %s: Waiting for cluster to be formatted", name)
	case f.find(name) != nil:
		fail(1, "Failed to create VDI %s: VDI exists already", name)
	}
	f.add(image{Name: name, Size: size, Kind: "="})
	f.save()
}

func (f *fake) remove() {
	i := f.find(f.name(0))
	if i == nil {
		f.missing(0, f.name(0))
	}
	for n, other := range f.Images {
		if other == i {
			f.Images = append(f.Images[:n:n], f.Images[n+1:]...)
			break
		}
	}
	f.save()
	_ = os.Remove(f.data(i))
}

func (f *fake) resize() {
	i, size := f.find(f.name(0)), f.size(1)
	switch {
	case i == nil:
		f.missing(1, f.name(0))
	case size < i.Size:
		fail(exitUsage, "Shrinking VDIs is not implemented")
	case size > maxSize:
		fail(exitUsage, "New VDI size is too large. This volume's max size is %d", int64(maxSize))
	}
	i.Size = size
	f.save()
}

func (f *fake) copy(from, to *image) {
	in, err := os.Open(f.data(from))
	if os.IsNotExist(err) {
		return
	}
	out, err2 := os.Create(f.data(to))
	if err != nil || err2 != nil {
		fail(1, "%v %v", err, err2)
	}
	if _, err := io.Copy(out, in); err != nil {
		fail(1, "%v", err)
	}
}

func (f *fake) snapshot() {
	tag := f.tag
	if f.find(f.name(0)) != nil {
		fail(1, "Failed to create snapshot for %s, maybe snapshot id (0) or tag (%s) is existed", f.name(0), tag)
	}
	f.tag = ""
	i := f.must(f.name(0))
	f.copy(i, f.add(image{Name: i.Name, Snap: f.Next + 1, Tag: tag, Size: i.Size, Kind: "s"}))
	f.save()
}

func (f *fake) clone() {
	i := f.must(f.name(0))
	f.tag = ""
	if f.find(f.name(1)) != nil {
		fail(1, "Failed to create VDI %s: VDI exists already", f.name(1))
	}
	f.copy(i, f.add(image{Name: f.name(1), Size: i.Size, Kind: "c"}))
	f.save()
}

// part is the offset and length of a read or write.
func (f *fake) part(i *image) (at, n int64) {
	n = i.Size
	if len(f.args) > 1 {
		at = f.size(1)
	}
	if len(f.args) > 2 {
		n = f.size(2)
	}
	if at > i.Size {
		fail(1, "Read offset is beyond the end of the VDI")
	}
	return at, min(n, i.Size-at)
}

func (f *fake) read() {
	i := f.must(f.name(0))
	at, n := f.part(i)
	data := make([]byte, n)
	if file, err := os.Open(f.data(i)); err == nil {
		_, _ = file.ReadAt(data, at) // what is behind its end is zeros
	}
	_, _ = os.Stdout.Write(data)
}

// write fills up with zeros what cannot be read of an object's part.
func (f *fake) write() {
	i := f.must(f.name(0))
	at, n := f.part(i)
	file, err := os.OpenFile(f.data(i), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		fail(1, "%v", err)
	}
	for n > 0 {
		data := make([]byte, min(n, objectSize-at%objectSize))
		got, err := io.ReadFull(os.Stdin, data)
		if _, err := file.WriteAt(data, at); err != nil {
			fail(1, "Failed to write VDI")
		}
		if err != nil || got < len(data) {
			return
		}
		at, n = at+int64(len(data)), n-int64(len(data))
	}
}
