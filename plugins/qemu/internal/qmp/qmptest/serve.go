package qmptest

import (
	"bufio"
	"encoding/json"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// fileReader reads a unix socket and keeps the descriptors that arrive.
type fileReader struct {
	conn  *net.UnixConn
	files []*os.File
}

func (r *fileReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, oob)
	if err != nil {
		return n, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return n, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return n, err
		}
		for _, fd := range fds {
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return n, nil
}

// serve talks to one client until it goes.
func (s *Server) serve(conn *net.UnixConn) {
	files := &fileReader{conn: conn}
	in := bufio.NewScanner(files)
	in.Buffer(nil, 4<<20)
	if _, err := conn.Write([]byte(Greeting + "\r\n")); err != nil {
		return
	}
	for in.Scan() {
		s.gate()
		var cmd struct {
			Execute   string          `json:"execute"`
			Arguments json.RawMessage `json:"arguments"`
			ID        json.RawMessage `json:"id"`
		}
		if err := json.Unmarshal(in.Bytes(), &cmd); err != nil {
			return
		}
		s.record(cmd.Execute, cmd.Arguments, files)
		answer := map[string]any{}
		if cmd.ID != nil {
			answer["id"] = cmd.ID
		}
		reply, qerr := s.answer(cmd.Execute, cmd.Arguments)
		if qerr != nil {
			answer["error"] = qerr
		} else {
			answer["return"] = reply
		}
		line, err := json.Marshal(answer)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(line, '\r', '\n')); err != nil {
			return
		}
	}
}

// record notes a command, with the oldest descriptor that came and belongs to none yet.
func (s *Server) record(name string, args json.RawMessage, files *fileReader) {
	if name == "qmp_capabilities" {
		return
	}
	call := Call{Name: name, Args: args}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(files.files) > 0 {
		call.File, files.files = files.files[0], files.files[1:]
		s.files = append(s.files, call.File)
	}
	s.calls = append(s.calls, call)
}
