package dog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dog"
	"github.com/lodgevirt/lodge/plugins/storage/sheepdog/internal/dogtest"
)

func cluster(fake *dogtest.Cluster) dog.Cluster {
	return dog.Cluster{Program: fake.Program(), Host: "127.0.0.1", Port: 7000, Timeout: 10 * time.Second}
}

func TestWhatDogSays(t *testing.T) {
	fake := dogtest.Start(t)
	c := cluster(fake)
	ctx := t.Context()
	if err := errors.Join(c.Create(ctx, "with space", 4<<20), c.Create(ctx, "a", 1000)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err, want error
	}{
		"a name that is taken":    {c.Create(ctx, "a", 1), dog.ErrExists},
		"too big":                 {c.Create(ctx, "b", 1<<50), dog.ErrRefused},
		"delete what is not":      {c.Delete(ctx, "b"), dog.ErrNone},
		"resize what is not":      {c.Resize(ctx, "b", 10), dog.ErrNone},
		"a smaller size":          {c.Resize(ctx, "a", 10), dog.ErrRefused},
		"a bigger size":           {c.Resize(ctx, "a", 2000), nil},
		"a snapshot":              {c.Snapshot(ctx, "a", "tag"), nil},
		"read what is not":        {c.Read(ctx, "b", make([]byte, 1), 0), dog.ErrNone},
		"delete":                  {c.Delete(ctx, "with space"), nil},
		"look after the deletion": {errOf(c.Find(ctx, "with space")), dog.ErrNone},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	fake.Set("unformatted", true)
	if _, err := c.Room(ctx); !errors.Is(err, dog.ErrUnformatted) {
		t.Errorf("not formatted: %v", err)
	}
	fake.Set("down", true)
	if _, err := c.Room(ctx); !errors.Is(err, dog.ErrAway) || strings.Count(err.Error(), "Connection refused") != 1 {
		t.Errorf("down: %v", err)
	}
}

func errOf(_ dog.Image, err error) error { return err }

func TestWritingEndsWhereItShould(t *testing.T) {
	c := cluster(dogtest.Start(t))
	if err := errors.Join(c.Create(t.Context(), "a", 1<<20), c.Write(t.Context(), "a", bytes.Repeat([]byte("x"), 1<<20), 0),
		c.Write(t.Context(), "a", []byte("yy"), 10)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if err := c.Read(t.Context(), "a", got, 9); err != nil || string(got) != "xyyxx" {
		t.Errorf("read %q, error %v", got, err)
	}
}

func TestARunIsBounded(t *testing.T) {
	fake := dogtest.Start(t)
	fake.Set("hang", true)
	c := cluster(fake)
	c.Timeout = 200 * time.Millisecond
	begun := time.Now()
	if _, err := c.Room(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

// recorded are the runs of a real dog, where they are beside the repository.
func recorded(t *testing.T) map[string]dogtest.Run {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	dir := filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "..", "..", "shared", "fixtures", "sheepdog")
	index, err := os.ReadFile(filepath.Join(dir, "index.tsv"))
	if err != nil {
		t.Skip("the recorded runs are not here")
	}
	all := map[string]dogtest.Run{}
	for line := range strings.Lines(string(index)) {
		parts := strings.Split(line, "\t")
		if exit, err := strconv.Atoi(parts[1]); err == nil {
			all[parts[0]] = dogtest.Run{Exit: exit, Out: filepath.Join(dir, parts[0]+".out"), Err: filepath.Join(dir, parts[0]+".err")}
		}
	}
	return all
}

// asked is a recorded run by who would have asked for it, with what must be made of it.
type asked struct {
	ask  func() (string, error)
	want string
	err  error
}

// asking are the recorded runs that this package asks for.
func asking(ctx context.Context, c dog.Cluster) map[string]asked {
	room := func() (string, error) {
		r, err := c.Room(ctx)
		return fmt.Sprint(r.Capacity, " ", r.Allocation, " ", r.Available), err
	}
	list := func() (string, error) {
		images, odd, err := c.All(ctx)
		var names []string
		for _, i := range images {
			names = append(names, fmt.Sprintf("%.9s%s=%d/%d", i.Name, i.Tag, i.Size, i.Used))
		}
		slices.Sort(names)
		return strings.Join(append(names, odd...), ","), err
	}
	find := func(name string) func() (string, error) {
		return func() (string, error) {
			i, err := c.Find(ctx, name)
			return fmt.Sprint(i.Size, "/", i.Used), err
		}
	}
	create := func() (string, error) { return "", c.Create(ctx, "x", 1) }
	resize := func() (string, error) { return "", c.Resize(ctx, "x", 1) }
	snapshot := func() (string, error) { return "", c.Snapshot(ctx, "x", "t") }
	drop := func() (string, error) { return "", c.DeleteSnapshot(ctx, "x", "t") }
	const rest = "beta=16777216/16777216,big=4398046511104/0,gamma=134217728/0,%snnnnnnnnn=4194304/0,odd=5000001/0,%szero=0/0"
	return map[string]asked{
		"unformatted-node-info":  {room, "0 0 0", dog.ErrUnformatted},
		"unformatted-vdi-list":   {list, "", nil},
		"unformatted-vdi-create": {create, "", dog.ErrUnformatted},
		"empty-node-info":        {room, "234140946432 0 234140946432", nil},
		"empty-vdi-list":         {list, "", nil},
		"empty-vdi-list-one":     {find("alpha"), "0/0", dog.ErrNone},
		"create-alpha":           {create, "", nil},
		"create-alpha-dup":       {create, "", dog.ErrExists},
		"create-badsize":         {create, "", dog.ErrRefused},
		"create-nosize":          {create, "", dog.ErrRefused},
		"create-toobig":          {create, "", dog.ErrRefused},
		"create-over-4T":         {create, "", dog.ErrRefused},
		"create-longname":        {create, "", nil},
		"list-normal":            {list, "alpha=67108864/0," + fmt.Sprintf(rest, "", "with spac=4194304/0,"), nil},
		"list-one":               {find("alpha"), "67108864/0", nil},
		"list-one-space":         {find("with space"), "4194304/0", nil},
		"list-missing":           {find("nosuch"), "0/0", dog.ErrNone},
		"resize-up":              {resize, "", nil},
		"resize-same":            {resize, "", nil},
		"resize-shrink":          {resize, "", dog.ErrRefused},
		"resize-missing":         {resize, "", dog.ErrNone},
		"resize-badsize":         {resize, "", dog.ErrRefused},
		"resize-toobig":          {resize, "", dog.ErrRefused},
		"list-after-resize":      {find("alpha"), "134217728/0", nil},
		"list-after-write":       {find("alpha"), "134217728/12582912", nil},
		"node-info-with-data":    {room, "233969868800 58818560 233911050240", nil},
		"snapshot":               {snapshot, "", nil},
		"snapshot-dup-tag":       {snapshot, "", errAny},
		"list-with-snapshot":     {list, "alpha=134217728/0,alphasnap1=134217728/12582912," + fmt.Sprintf(rest, "", "with spac=4194304/0,"), nil},
		"list-one-with-snapshot": {find("alpha"), "134217728/0", nil},
		"list-with-clone": {
			list, "alpha=134217728/0,alphaclon=134217728/0,alphasnap1=134217728/12582912," + fmt.Sprintf(rest, "", "with spac=4194304/0,"), nil,
		},
		"snapshot-delete":        {drop, "", nil},
		"delete-missing":         {drop, "", nil},
		"list-after-delete":      {list, fmt.Sprintf(rest, "", ""), nil},
		"node-info-after-delete": {room, "233994653696 33652736 233961000960", nil},
		"wrong-port":             {list, "", dog.ErrAway},
		"wrong-port-node-info":   {room, "0 0 0", dog.ErrAway},
		"bad-host":               {list, "", errAny},
		"bad-port":               {list, "", dog.ErrRefused},
		"bad-option":             {list, "", dog.ErrRefused},
		"bad-subcommand":         {create, "", dog.ErrRefused},
		"collie-alias":           {room, "233994493952 33652736 233960841216", nil},
		"onelost-node-info":      {room, "155980742656 33652736 155947089920", nil},
		"onelost-vdi-list":       {list, fmt.Sprintf(rest, "", ""), nil},
		"twolost-node-info":      {room, "77987491840 16826368 77970665472", nil},
		"twolost-vdi-create":     {create, "", nil},
		"twolost-vdi-list":       {list, fmt.Sprintf(rest, "late=4194304/0,", ""), nil},
		"stopped-node-info":      {room, "0 0 0", dog.ErrAway},
	}
}

// TestRecordedRuns replays each run of a real dog by what would have asked for it.
func TestRecordedRuns(t *testing.T) {
	all := recorded(t)
	fake := dogtest.Start(t)
	c := cluster(fake)
	ctx := t.Context()
	for name, w := range asking(ctx, c) {
		run, ok := all[name]
		if !ok {
			t.Errorf("%s is not recorded", name)
			continue
		}
		fake.Replay(run)
		got, err := w.ask()
		right := errors.Is(err, w.err)
		if errors.Is(w.err, errAny) {
			right = err != nil
		}
		if got != w.want || !right {
			t.Errorf("%s:\n%s, error %v, want\n%s, error %v", name, got, err, w.want, w.err)
		}
	}
	// What nobody asks for in that way must not be taken for something either.
	for name, run := range all {
		fake.Replay(run, run)
		images, odd, err := c.All(ctx)
		_, roomErr := c.Room(ctx)
		if err == nil && len(images)+len(odd) == 0 && roomErr == nil {
			t.Errorf("%s is taken for a room and no image", name)
		}
	}
}

// errAny is any error.
var errAny = errors.New("any")
