// Package cli is the command line of the operator's tool. Every command is one call of lodge.admin.v1 and one table, or JSON where a
// program reads it. Errors say what could not be reached and how to reach it.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lodgevirt/lodge/host/internal/layout"
	"github.com/lodgevirt/lodge/host/internal/version"
	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
)

// callTimeout bounds every call but watches.
const callTimeout = 10 * time.Second

// maxReply bounds a reply in bytes.
const maxReply = 16 << 20

// tool is what the commands share.
type tool struct {
	out    io.Writer
	socket string
	dir    string
	json   bool
}

// Command returns the root command, which prints to out.
func Command(out io.Writer) *cobra.Command {
	t := &tool{out: out}
	root := &cobra.Command{
		Use:           "lodge",
		Short:         "Show and operate a Lodge host",
		Long:          "lodge shows and operates a running lodged over its socket.\nGuests are managed with virsh and every other libvirt client.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(out)
	flags := root.PersistentFlags()
	flags.StringVar(&t.dir, "dir", "", "folder that lodged was started with (lodged --dir)")
	flags.StringVar(&t.socket, "socket", "", "path of lodge.sock (default: the system's host, or the user's)")
	flags.BoolVar(&t.json, "json", false, "print JSON, one object a line")
	root.AddCommand(t.status(), t.plugin(), t.guest(), t.lock(), t.job(), t.events(), t.version())
	return root
}

// path finds the socket that the flags mean.
func (t *tool) path() (string, error) {
	switch {
	case t.socket != "" && t.dir != "":
		return "", fmt.Errorf("use --dir or --socket, not both")
	case t.socket != "":
		return t.socket, nil
	case t.dir != "":
		return layout.Under(t.dir).Admin(), nil
	case os.Geteuid() == 0:
		return layout.System().Admin(), nil
	}
	l, err := layout.Session(os.Getenv)
	return l.Admin(), err
}

// dial connects to the host.
func (t *tool) dial() (adminv1.HostServiceClient, func() error, error) {
	path, err := t.path()
	if err != nil {
		return nil, nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return adminv1.NewHostServiceClient(conn), conn.Close, nil
}

// call runs one bounded call and explains an unreachable host.
func (t *tool) call(ctx context.Context, do func(context.Context, adminv1.HostServiceClient) error) error {
	return t.callFor(ctx, callTimeout, do)
}

// callFor is call for what may take longer.
func (t *tool) callFor(ctx context.Context, limit time.Duration, do func(context.Context, adminv1.HostServiceClient) error) error {
	client, closeConn, err := t.dial()
	if err != nil {
		return err
	}
	defer closeConn()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return t.explain(do(ctx, client))
}

func (t *tool) explain(err error) error {
	if status.Code(err) != codes.Unavailable {
		if st, ok := status.FromError(err); ok && err != nil {
			return fmt.Errorf("%s", st.Message())
		}
		return err
	}
	path, _ := t.path()
	return fmt.Errorf("no host answers at %s: is lodged running, and may you use its socket? (%s)", path, status.Convert(err).Message())
}

func (t *tool) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of this tool and of the host", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintln(t.out, "lodge", version.String())
			err := t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				st, err := c.GetStatus(ctx, &adminv1.GetStatusRequest{})
				if err == nil {
					fmt.Fprintln(t.out, "lodged", st.Version)
				}
				return err
			})
			if err != nil {
				fmt.Fprintln(t.out, "lodged not reached")
			}
			return nil
		},
	}
}
