package follow_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vmware/govmomi/vim25/types"
	"go.uber.org/goleak"

	"github.com/lodgevirt/lodge/plugins/esx/internal/endpoint"
	"github.com/lodgevirt/lodge/plugins/esx/internal/follow"
	"github.com/lodgevirt/lodge/plugins/esx/internal/vimtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// slack is the longest that a test waits for something to happen.
const slack = 20 * time.Second

// names is a source: the names of machines, told as a line for each method that is called.
type names struct {
	told   chan string
	refuse string
	all    map[types.ManagedObjectReference]string
}

var errRefused = errors.New("refused by the source")

func (n *names) Open(ctx context.Context, w *follow.Watch) error {
	n.all = map[types.ManagedObjectReference]string{}
	v, err := w.View(ctx, w.Client().ServiceContent.RootFolder, "VirtualMachine")
	if err != nil {
		return err
	}
	return w.Members(ctx, v, "VirtualMachine", "name")
}

func (n *names) Apply(u types.ObjectUpdate) error {
	for _, c := range u.ChangeSet {
		n.all[u.Obj], _ = c.Val.(string)
	}
	if u.Kind == types.ObjectUpdateKindLeave {
		delete(n.all, u.Obj)
	}
	if n.refuse != "" && n.all[u.Obj] == n.refuse {
		n.refuse = ""
		return errRefused
	}
	return nil
}

func (n *names) Publish(first bool) {
	line := "changed"
	if first {
		line = "read"
	}
	for _, name := range n.all {
		if !strings.HasPrefix(name, "ha-host") {
			line += " " + name
		}
	}
	n.told <- line
}

func (n *names) Lost(_ context.Context, cause error) { n.told <- "lost: " + cause.Error() }

// until reads what is told until a line begins so, and returns that line.
func (n *names) until(t *testing.T, prefix string) string {
	t.Helper()
	timeout := time.After(slack)
	for {
		select {
		case line := <-n.told:
			if strings.HasPrefix(line, prefix) {
				return line
			}
		case <-timeout:
			t.Fatalf("%q is not told", prefix)
		}
	}
}

func start(t *testing.T, s *vimtest.Server, source *names) (*follow.Follower, *endpoint.Endpoint) {
	t.Helper()
	e, err := endpoint.Open(endpoint.Config{
		Name: "lab", Address: s.Address(), User: vimtest.User, Password: vimtest.Password, Thumbprint: s.SHA256(),
		ConnectTimeout: 3 * time.Second, CallTimeout: 5 * time.Second, MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	source.told = make(chan string, 10000)
	f, err := follow.Start(e, follow.Options{
		MaxWait: time.Second, Grace: 3 * time.Second, MinPause: 10 * time.Millisecond, MaxPause: 50 * time.Millisecond,
	}, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, e
}

func ready(f *follow.Follower, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f.Ready(ctx)
}

func TestChangesArePublishedAndALossIsReadAnew(t *testing.T) {
	s, source := vimtest.Start(t, vimtest.Options{}), &names{}
	f, _ := start(t, s, source)
	if err := ready(f, slack); err != nil {
		t.Fatal(err)
	}
	if line := source.until(t, "read"); line != "read" {
		t.Errorf("told is %q", line)
	}
	s.Create("new")
	if line := source.until(t, "changed"); line != "changed new" {
		t.Errorf("told is %q", line)
	}
	s.Gate.Cut()
	if line := source.until(t, "lost"); !strings.Contains(line, s.Address()) {
		t.Errorf("told is %q", line)
	}
	s.Destroy("new")
	s.Create("newer")
	s.Gate.Open()
	if line := source.until(t, "read"); line != "read newer" {
		t.Errorf("told is %q", line)
	}
}

func TestUpdateThatTheSourceRefusesCostsAReading(t *testing.T) {
	s, source := vimtest.Start(t, vimtest.Options{}), &names{refuse: "bad"}
	start(t, s, source)
	source.until(t, "read")
	s.Create("bad")
	if line := source.until(t, "lost"); !strings.Contains(line, errRefused.Error()) {
		t.Errorf("told is %q", line)
	}
	if line := source.until(t, "read"); line != "read bad" {
		t.Errorf("told is %q", line)
	}
}

func TestReadySaysWhyNothingIsRead(t *testing.T) {
	s := vimtest.Start(t, vimtest.Options{})
	s.Gate.Cut()
	f, e := start(t, s, &names{})
	if err := ready(f, 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), s.Address()) {
		t.Errorf("while the endpoint is away the error is %v", err)
	}
	e.Close()
	if err := ready(f, slack); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after the end the error is %v", err)
	}
	if _, err := follow.Start(e, follow.Options{}, &names{}); err == nil {
		t.Error("a closed endpoint is followed")
	}
}
