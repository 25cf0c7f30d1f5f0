package kernel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/iscsi/internal/define"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/storage/v1"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// databases are where distributions have open-iscsi's records of nodes.
var databases = []string{"/var/lib/iscsi/nodes", "/etc/iscsi/nodes"}

// maxRecord bounds the record of a node in bytes.
const maxRecord = 1 << 20

// node is a target at an address, by an interface of this driver.
type node struct {
	target, portal, iface, initiator string
	databases                        []string
}

// ifaceOf is the name of the interface that a pool's session is made by.
func ifaceOf(pool *define.Pool) string { return ifaceFor(pool.Initiator()) }

// ifaceFor is the interface of an initiator, or of the host's own if that is empty.
func ifaceFor(initiator string) string {
	if initiator == "" {
		return "lodge"
	}
	return fmt.Sprintf("lodge-%x", sha256.Sum256([]byte(initiator)))[:len("lodge-")+8]
}

// node is what iscsiadm knows of a pool's target.
func (p *Pools) node(ctx context.Context, pool *define.Pool) (node, error) {
	portal, err := resolve(ctx, pool.Portal())
	n := node{target: pool.Target(), portal: portal, iface: ifaceOf(pool), initiator: pool.Initiator(), databases: databases}
	if own := p.Settings().Database; own != "" {
		n.databases = []string{own}
	}
	return n, err
}

// resolve looks up the host of a portal; an IPv4 address goes first.
func resolve(ctx context.Context, portal string) (string, error) {
	all, err := addresses(ctx, portal)
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(portal)
	best := all[0]
	for _, a := range all {
		if !strings.Contains(a, ":") {
			best = a
			break
		}
	}
	return net.JoinHostPort(best, port), nil
}

// addresses are those of a portal's host.
func addresses(ctx context.Context, portal string) ([]string, error) {
	host, _, err := net.SplitHostPort(portal)
	if err != nil {
		return nil, verr.New(verr.InvalidArg, "'%s' is no address of an iSCSI server", portal).In(verr.FromStorage)
	}
	all, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil || len(all) == 0 {
		return nil, verr.New(verr.OperationFailed, "host lookup of '%s' failed: %w", host, err).In(verr.FromStorage)
	}
	return all, nil
}

func (n node) args(more ...string) []string {
	return append([]string{"--mode", "node", "--targetname", n.target, "--portal", n.portal, "--interface", n.iface}, more...)
}

// iface makes sure that the interface is there and has the initiator's name.
func (p *Pools) iface(ctx context.Context, n node) error {
	show := []string{"--mode", "iface", "--interface", n.iface}
	want := "iface.initiatorname = " + n.initiator
	if text, err := p.output(ctx, show...); err == nil && (n.initiator == "" || hasLine(text, want)) {
		return nil
	}
	err := p.run(ctx, append(show, "--op", "new")...)
	if err == nil && n.initiator != "" {
		err = p.run(ctx, append(show, "--op", "update", "--name", "iface.initiatorname", "--value", n.initiator)...)
	}
	if err == nil {
		return nil
	}
	return verr.New(code(err), "cannot make an iSCSI interface for initiator '%s': %w", n.initiator, err).In(verr.FromStorage)
}

func hasLine(text, want string) bool {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == want {
			return true
		}
	}
	return false
}

// setting is a line of a record.
type setting struct{ name, value string }

// loginSettings are what a login of a pool differs in from the defaults: nobody but this driver starts it, it does not go on for minutes, and
// who logs in.
func loginSettings(pool *define.Pool, secrets []*pb.Secret, timeout time.Duration) ([]setting, error) {
	all := []setting{
		{"node.startup", "manual"},
		{"node.session.initial_login_retry_max", "1"},
		{"node.conn[0].timeo.login_timeout", strconv.Itoa(max(1, int(timeout/time.Second)))},
	}
	a := pool.Source.Auth
	if a == nil {
		return all, nil
	}
	if len(secrets) == 0 {
		return nil, verr.New(verr.NoSecret, "the value of the secret of pool '%s' did not come along", pool.Name).In(verr.FromStorage)
	}
	password := string(secrets[0].GetValue())
	for what, text := range map[string]string{"user": a.Username, "password": password} {
		if text == "" || strings.TrimSpace(text) != text || strings.ContainsFunc(text, unicode.IsControl) || len(text) > 255 {
			return nil, verr.New(verr.InvalidArg, "the %s of pool '%s' cannot be used for CHAP", what, pool.Name).In(verr.FromStorage)
		}
	}
	return append(all, setting{"node.session.auth.authmethod", "CHAP"},
		setting{"node.session.auth.username", a.Username}, setting{"node.session.auth.password", password}), nil
}

// records are the files that may be the node's: open-iscsi has one for each interface in a folder of the portal with its group, and the portal
// as a file where the group is not known.
func (n node) records() []string {
	host, port, err := net.SplitHostPort(n.portal)
	if err != nil {
		return nil
	}
	var found []string
	for _, dir := range n.databases {
		portal := filepath.Join(dir, n.target, host+","+port)
		found = append(found, portal)
		entries, err := os.ReadDir(filepath.Dir(portal))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), host+","+port+",") {
				found = append(found, filepath.Join(filepath.Dir(portal), e.Name(), n.iface))
			}
		}
	}
	return found
}

// owns reports whether a record is by the node's interface, or nobody's: one that is empty was being written by somebody who was killed.
func (n node) owns(record string) bool {
	return strings.TrimSpace(record) == "" || hasLine(record, "iface.iscsi_ifacename = "+n.iface)
}

// own opens the record that the node owns, or fails with fs.ErrNotExist.
func (n node) own() (*os.File, string, error) {
	for _, name := range n.records() {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(f, maxRecord))
		if err == nil && n.owns(string(text)) {
			return f, string(text), nil
		}
		_ = f.Close()
	}
	return nil, "", fmt.Errorf("look for it in %s: %w", strings.Join(n.databases, " and "), os.ErrNotExist)
}

// foreign is the record of somebody else's that a new one would take the place of, or empty.
func (n node) foreign() string {
	for _, name := range n.records() {
		text, err := os.ReadFile(name)
		if err == nil && !n.owns(string(text)) {
			return name
		}
	}
	return ""
}

// change changes lines of the node's record in its place, so that there is no second file with a password in it.
func (n node) change(all []setting) error {
	f, text, err := n.own()
	if err != nil {
		return err
	}
	changed := edit(text, all)
	err = f.Chmod(0o600)
	if err == nil {
		_, err = f.WriteAt([]byte(changed), 0)
	}
	if err == nil {
		err = f.Truncate(int64(len(changed))) // last, so that the record is never empty
	}
	return errors.Join(err, f.Close())
}

// edit sets lines of a record, which ends with a comment.
func edit(text string, all []setting) string {
	drop := map[string]bool{}
	for _, s := range all {
		drop[s.name] = true
	}
	var kept, end strings.Builder
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, "=")
		switch {
		case strings.HasPrefix(line, "# END"):
			end.WriteString(line)
		case !drop[strings.TrimSpace(name)]:
			kept.WriteString(line)
		}
	}
	if s := kept.String(); s != "" && !strings.HasSuffix(s, "\n") {
		kept.WriteByte('\n')
	}
	for _, s := range all {
		kept.WriteString(s.name + " = " + s.value + "\n")
	}
	return kept.String() + end.String()
}

// remove removes the node's record, and the folders that it leaves empty. iscsiadm would not, while there is a session.
func (n node) remove() {
	for {
		f, _, err := n.own()
		if err != nil {
			return
		}
		name := f.Name()
		_ = f.Close()
		if os.Remove(name) != nil {
			return
		}
		for dir := filepath.Dir(name); !slices.Contains(n.databases, dir) && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
		}
	}
}
