package command_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/internal/command"
)

func TestOutputIsReturnedAlsoOfAFailure(t *testing.T) {
	out, err := command.Output(t.Context(), "sh", "-c", "echo out; echo words >&2; exit 7")
	var failed *command.Error
	if !errors.As(err, &failed) || failed.Status != 7 || failed.Words != "words" || out != "out\n" {
		t.Errorf("output %q, error %v", out, err)
	}
}

func TestAProgramEndsWithItsContextAndAllThatItStarted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err := command.Run(ctx, "sh", "-c", "sleep 60 & sleep 60")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begun); took > 1500*time.Millisecond { // killWait would end it, too, if the child lived on
		t.Errorf("it took %v", took)
	}
}

func TestMuchOutputIsCutAndRefused(t *testing.T) {
	out, err := command.Output(t.Context(), "head", "-c", "20000000", "/dev/zero")
	if err == nil || !strings.Contains(err.Error(), "printed more than") || len(out) != command.MaxOutput {
		t.Errorf("%d bytes, error %v", len(out), err)
	}
}

func TestOutputOfAProgramThatOutlivesUsIsTheSame(t *testing.T) {
	out, err := (&command.Command{Name: "sh", Args: []string{"-c", "echo out; echo words >&2; [ ! -p /dev/stdout ] && exit 7"}, Outlives: true}).Output(t.Context())
	var failed *command.Error
	if !errors.As(err, &failed) || failed.Status != 7 || failed.Words != "words" || string(out) != "out\n" {
		t.Errorf("output %q, error %v", out, err)
	}
}

func TestASecretReachesAProgramByADescriptor(t *testing.T) {
	f, err := command.Memory([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := (&command.Command{Name: "cat", Args: []string{"/proc/self/fd/3"}, Files: []*os.File{f}}).Output(t.Context())
	if err != nil || string(out) != "secret" {
		t.Errorf("output %q, error %v", out, err)
	}
}

func TestAProgramThatIsNotInstalledIsNamed(t *testing.T) {
	err := command.Run(t.Context(), "lodge-no-such-program")
	if !errors.Is(err, command.ErrMissing) || !strings.Contains(err.Error(), "lodge-no-such-program") {
		t.Errorf("error %v", err)
	}
	if command.Available("lodge-no-such-program") || !command.Available("sh") {
		t.Error("what is installed is not known")
	}
}
