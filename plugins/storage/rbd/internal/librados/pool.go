//go:build cgo && pacific

package librados

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sys/unix"

	"github.com/lodgevirt/lodge/plugins/storage/rbd/internal/ceph"
)

// fenceTime is for how long a client is fenced, in seconds; the monitors want a number with a fraction.
const fenceTime = "3600.0"

// Available reports whether there is a client, and else why not.
func Available() error { return nil }

// pool implements ceph.Pool.
type pool struct {
	conn *rados.Conn
	io   *rados.IOContext
}

// mend gives errors of the libraries their numbers for errors.Is.
func mend(err error) error {
	if err == nil {
		return nil
	}
	var number interface{ ErrorCode() int }
	if errors.As(err, &number) && number.ErrorCode() < 0 {
		return unix.Errno(-number.ErrorCode())
	}
	return err
}

// settings are the options of a client before those of the definition: the timeouts are libvirt's. Errors are for the caller and not for the
// standard error output; a discard frees just what it names, also within a block of 64 KiB.
func settings(o ceph.Options) []ceph.Setting {
	const ioTimeout = "30"
	all := []ceph.Setting{
		{Name: "client_mount_timeout", Value: strconv.Itoa(max(1, int(o.Timeout/time.Second)))},
		{Name: "rados_mon_op_timeout", Value: ioTimeout},
		{Name: "rados_osd_op_timeout", Value: ioTimeout},
		{Name: "rbd_default_format", Value: "2"},
		{Name: "rbd_skip_partial_discard", Value: "false"},
		{Name: "log_to_stderr", Value: "false"},
		{Name: "err_to_stderr", Value: "false"},
		{Name: "admin_socket", Value: ""},
	}
	if len(o.Monitors) == 0 {
		return append(all, o.Settings...)
	}
	hosts := ""
	for n, m := range o.Monitors {
		if n > 0 {
			hosts += ","
		}
		hosts += m
	}
	all = append(all, ceph.Setting{Name: "mon_host", Value: hosts})
	if o.User == "" {
		all = append(all, ceph.Setting{Name: "auth_supported", Value: "none"})
	}
	return append(all, o.Settings...)
}

// Dial implements ceph.Dialer.
func Dial(o ceph.Options) (ceph.Pool, error) {
	conn, err := client(o.User)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", mend(err))
	}
	if len(o.Monitors) == 0 {
		if err := conn.ReadDefaultConfigFile(); err != nil {
			return nil, fmt.Errorf("read Ceph's configuration file: %w", mend(err))
		}
	}
	for _, s := range settings(o) {
		if err := conn.SetConfigOption(s.Name, s.Value); err != nil {
			return nil, fmt.Errorf("set option %q of a Ceph client: %w", s.Name, mend(err))
		}
	}
	if o.Key != "" {
		for name, value := range map[string]string{"key": o.Key, "auth_supported": "cephx"} {
			if err := conn.SetConfigOption(name, value); err != nil {
				return nil, fmt.Errorf("set option %q of a Ceph client: %w", name, mend(err))
			}
		}
	}
	// Options that were set one by one hold for what has read them before, such as the log, only after this.
	if err := conn.ParseConfigArgv([]string{"lodge"}); err != nil {
		return nil, fmt.Errorf("apply options of a Ceph client: %w", mend(err))
	}
	if err := conn.Connect(); err != nil {
		return nil, fmt.Errorf("connect: %w", mend(err))
	}
	io, err := conn.OpenIOContext(o.Pool)
	if err != nil {
		conn.Shutdown()
		return nil, fmt.Errorf("open pool %q: %w", o.Pool, mend(err))
	}
	return &pool{conn, io}, nil
}

func client(user string) (*rados.Conn, error) {
	if user == "" {
		return rados.NewConn()
	}
	return rados.NewConnWithUser(user)
}

// Close implements ceph.Pool.
func (p *pool) Close() {
	p.io.Destroy()
	p.conn.Shutdown()
}

// Size implements ceph.Pool.
func (p *pool) Size() (total, free, used uint64, err error) {
	const kib = 1 << 10
	all, err := p.conn.GetClusterStats()
	if err != nil {
		return 0, 0, 0, mend(err)
	}
	own, err := p.io.GetPoolStats()
	return all.Kb * kib, all.Kb_avail * kib, own.Num_bytes, mend(err)
}

// Fence implements ceph.Pool. Releases before Pacific have another name for the command.
func (p *pool) Fence(addr string) error {
	// A lock's holder has the protocol before its address, which the command does not take: "v1:192.0.2.1:0/123".
	for _, protocol := range []string{"v1:", "v2:", "any:"} {
		addr = strings.TrimPrefix(addr, protocol)
	}
	var err error
	for _, words := range [][2]string{{"osd blocklist", "blocklistop"}, {"osd blacklist", "blacklistop"}} {
		command, jsonErr := json.Marshal(map[string]any{"prefix": words[0], words[1]: "add", "addr": addr, "expire": json.RawMessage(fenceTime)})
		if jsonErr != nil {
			return jsonErr
		}
		if _, _, err = p.conn.MonCommand(command); err == nil {
			return mend(p.conn.WaitForLatestOSDMap())
		}
		if !errors.Is(mend(err), unix.EINVAL) {
			break
		}
	}
	return fmt.Errorf("fence client %s: %w", addr, mend(err))
}
