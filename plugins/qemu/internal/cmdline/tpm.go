package cmdline

import (
	"path/filepath"
	"strings"

	"libvirt.org/go/libvirtxml"
)

func (b *builder) tpms() error {
	if len(b.dev.TPMs) > 1 {
		return unsupported("only a single TPM device is supported")
	}
	for i := range b.dev.TPMs {
		t := &b.dev.TPMs[i]
		if t.Model != "tpm-tis" && t.Model != "tpm-crb" {
			return unsupported("TPM model '%s' is not supported", t.Model)
		}
		if t.Backend.Emulator == nil {
			return unsupported("only the 'emulator' TPM backend is supported")
		}
		socket, err := b.swtpm(t)
		if err != nil {
			return err
		}
		id := t.Alias.Name
		b.arg("-tpmdev", "emulator,id=tpm-"+id+",chardev=chrtpm", "-chardev", "socket,id=chrtpm,path="+escape(socket))
		if err := b.device(props{"driver": t.Model, "tpmdev": "tpm-" + id, "id": id}); err != nil {
			return err
		}
	}
	return nil
}

// swtpm plans the process that emulates the TPM, and returns the path of its socket.
func (b *builder) swtpm(t *libvirtxml.DomainTPM) (string, error) {
	socket, err := b.socket("swtpm.sock", "tpm")
	if err != nil {
		return "", err
	}
	e := t.Backend.Emulator
	version := map[string]string{"1.2": "tpm1.2", "2.0": "tpm2"}[e.Version]
	if version == "" {
		return "", unsupported("TPM version '%s' is not supported", e.Version)
	}
	state := filepath.Join(b.plan.StateDir, "swtpm", b.d.UUID, version)
	if e.Source != nil && e.Source.Dir != nil {
		state = e.Source.Dir.Path
	}
	for _, path := range []string{socket, state, b.plan.LogDir} {
		if strings.ContainsRune(path, ',') {
			return "", unsupported("path '%s' of the TPM has a comma, which swtpm cannot take", path)
		}
	}
	b.cmd.Folders = append(b.cmd.Folders, state)
	args := []string{
		"socket", "--ctrl", "type=unixio,path=" + socket + ",mode=0600", "--tpmstate", "dir=" + state + ",mode=0600",
		"--log", "file=" + filepath.Join(b.plan.LogDir, b.d.UUID+"-swtpm.log"), "--terminate",
	}
	if version == "tpm2" {
		args = append(args, "--tpm2")
	}
	b.cmd.Helpers = append(b.cmd.Helpers, Helper{Name: "swtpm", Path: "swtpm", Args: args, Socket: socket})
	return socket, nil
}
