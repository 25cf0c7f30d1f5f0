package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/sdk/verr"
)

// Limits of files, in bytes.
const (
	maxAuthFile     = 1 << 20
	maxPasswordFile = 4096
	maxCertificate  = 1 << 20
)

// credentials are what the auth file has for a host.
type credentials struct {
	user     string
	password endpoint.Secret
}

// lookup finds a host's credentials in libvirt's auth file: the group [auth-esx-HOST], else [auth-esx-default], names the group
// [credentials-NAME]. See https://libvirt.org/auth.html. Nothing found is no error.
func (t *Table) lookup(host string) (credentials, bool, error) {
	if t.authFile == "" {
		return credentials{}, false, nil
	}
	text, err := readFile(t.authFile, maxAuthFile, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return credentials{}, false, nil
	}
	if err != nil {
		return credentials{}, false, verr.New(verr.AuthFailed, "read auth file: %w", err).In(verr.FromESX)
	}
	groups, err := parseGroups(string(text))
	if err != nil {
		return credentials{}, false, verr.New(verr.AuthFailed, "read auth file %q: %w", t.authFile, err).In(verr.FromESX)
	}
	for _, name := range []string{host, "default"} {
		group, ok := groups["auth-esx-"+name]
		if !ok {
			continue
		}
		found, ok := groups["credentials-"+group["credentials"]]
		if !ok {
			return credentials{}, false, verr.New(verr.AuthFailed, "auth file %q: group [auth-esx-%s] names credentials %q, which there are none",
				t.authFile, name, group["credentials"]).In(verr.FromESX)
		}
		return credentials{user: found["username"], password: endpoint.Secret(found["password"])}, true, nil
	}
	return credentials{}, false, nil
}

// parseGroups reads groups of KEY=VALUE lines.
func parseGroups(text string) (map[string]map[string]string, error) {
	groups := map[string]map[string]string{}
	var group map[string]string
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			name, ok = strings.CutSuffix(name, "]")
			if !ok {
				return nil, fmt.Errorf("line %d: a group's name ends with ]", number)
			}
			group = map[string]string{}
			groups[name] = group
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || group == nil {
			return nil, fmt.Errorf("line %d: expecting KEY=VALUE in a group", number)
		}
		group[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return groups, nil
}

// readFile reads a file of at most so many bytes. Permissions that it must not have are given as a mask.
func readFile(path string, limit int64, forbidden fs.FileMode) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%q is not a regular file", path)
	case info.Mode()&forbidden != 0:
		return nil, fmt.Errorf("%q can be read by others: take that permission away (chmod 600)", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%q is longer than %d bytes", path, limit)
	}
	return data, err
}

// othersRead is the permission that a file with a password must not have.
const othersRead fs.FileMode = 0o004

// readPassword reads the first line of a file.
func readPassword(path string) (endpoint.Secret, error) {
	data, err := readFile(path, maxPasswordFile, othersRead)
	if err != nil {
		return "", verr.New(verr.AuthFailed, "read password: %w", err).In(verr.FromESX)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return endpoint.Secret(bytes.TrimSuffix(line, []byte("\r"))), nil
}
