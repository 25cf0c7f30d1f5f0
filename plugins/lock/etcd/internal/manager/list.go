package manager

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/boot"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/config"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/store"
)

// listCommand shows the locks of all hosts.
const listCommand = "list"

// listTime bounds the command.
const listTime = time.Minute

// listMain is "lodge-plugin-etcd list": the options are those of the configuration, by the same names.
func listMain(args []string) int {
	ctx, cancel := context.WithTimeout(context.Background(), listTime)
	defer cancel()
	if err := list(ctx, args, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "lodge-plugin-etcd list: %v\n", err)
		return 1
	}
	return 0
}

// listed is one lock for programs.
type listed struct {
	// Key in etcd, and the fencing token.
	Key   string `json:"key"`
	Token int64  `json:"token"`
	// Holder is null where its record cannot be read.
	Holder *record.Holder `json:"holder"`
}

func list(ctx context.Context, args []string, out io.Writer) error {
	set := flag.NewFlagSet(listCommand, flag.ContinueOnError)
	endpoints := set.String("endpoints", "http://127.0.0.1:2379", "members of the cluster, separated by commas")
	texts := map[string]*string{}
	for _, name := range []string{"ca", "cert", "key", "user", "password_file", "prefix"} {
		texts[name] = set.String(name, "", "as in the configuration")
	}
	asJSON := set.Bool("json", false, "for programs: one JSON object a line")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("argument %q is not known", set.Arg(0))
	}
	table := map[string]any{"endpoints": strings.Split(*endpoints, ",")}
	for name, text := range texts {
		if *text != "" {
			table[name] = *text
		}
	}
	text, err := json.Marshal(table)
	if err != nil {
		return err
	}
	conf, err := config.Parser{Machine: boot.Machine}.Parse(text)
	if err != nil {
		return err
	}
	st, err := store.Open(conf, store.Identity{}, boot.Now)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }()
	if *asJSON {
		encoder := json.NewEncoder(out)
		return st.All(ctx, func(e store.Entry) error { return encoder.Encode(listed(e)) })
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "HOST\tGUEST\tUUID\tMODE\tSINCE\tRESOURCE") // Flush tells
	if err := st.All(ctx, func(e store.Entry) error { return printEntry(w, e) }); err != nil {
		return err
	}
	return w.Flush()
}

// printEntry shows one lock to a person; what others wrote is quoted where it is not plain.
func printEntry(w io.Writer, e store.Entry) error {
	h := e.Holder
	if h == nil {
		_, err := fmt.Fprintf(w, "?\t?\t?\t?\t?\t%s\n", plain(e.Key))
		return err
	}
	mode := "exclusive"
	if h.Shared {
		mode = "shared"
	}
	resource := h.Path
	if resource == "" {
		resource = h.Lockspace + "/" + h.Key
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n",
		plain(h.Host), plain(h.Name), plain(h.Owner), mode, h.Since.UTC().Format(time.RFC3339), plain(resource))
	return err
}

// plain quotes a text that a terminal should not get as it is.
func plain(s string) string {
	if quoted := fmt.Sprintf("%q", s); quoted != `"`+s+`"` || s == "" {
		return quoted
	}
	return s
}
