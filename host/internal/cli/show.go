package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
)

// table prints rows with a heading in aligned columns.
func (t *tool) table(heading string, rows [][]string) error {
	w := tabwriter.NewWriter(t.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, heading)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
}

// print prints messages as JSON lines if asked, else the table.
func print[M proto.Message](t *tool, messages []M, heading string, row func(M) []string) error {
	rows := make([][]string, len(messages))
	for n, m := range messages {
		if t.json {
			if err := t.line(m); err != nil {
				return err
			}
			continue
		}
		rows[n] = row(m)
	}
	if t.json {
		return nil
	}
	return t.table(heading, rows)
}

func (t *tool) line(m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.out, "%s\n", b)
	return err
}

func (t *tool) status() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show core, plugins, guests and locks at a glance", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				st, err := c.GetStatus(ctx, &adminv1.GetStatusRequest{})
				if err != nil {
					return err
				}
				if t.json {
					return t.line(st)
				}
				return t.overview(st)
			})
		},
	}
}

func (t *tool) overview(st *adminv1.GetStatusResponse) error {
	lockd := "away"
	if st.LockdReady {
		lockd = fmt.Sprintf("ready, pid %d, %d locks", st.LockdPid, st.Locks)
	}
	up := time.Since(st.Started.AsTime()).Truncate(time.Second)
	fmt.Fprintf(t.out, "core      %s, pid %d, up %s, %d clients\n", st.Version, st.Pid, up, st.Clients)
	fmt.Fprintf(t.out, "locks     %s\n", lockd)
	fmt.Fprintf(t.out, "guests    %d active, %d inactive", st.GuestsActive, st.GuestsInactive)
	if st.GuestsUnknown > 0 {
		fmt.Fprintf(t.out, ", %d UNKNOWN (see lodge guest list)", st.GuestsUnknown)
	}
	fmt.Fprintf(t.out, "\n\n")
	return t.plugins(st.Plugins)
}

func (t *tool) plugins(plugins []*adminv1.Plugin) error {
	return print(t, plugins, "PLUGIN\tVERSION\tSTATE\tPID\tGEN\tCRASHES\tURIS\tDETAIL", func(p *adminv1.Plugin) []string {
		return []string{
			p.Name, p.Version, p.State, dash(p.Pid), fmt.Sprint(p.Generation), fmt.Sprint(p.Crashes),
			strings.Join(p.Uris, ","), p.Detail,
		}
	})
}

// dash prints a number, or - for none.
func dash[N int32 | uint32](n N) string {
	if n <= 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// restartTimeout is how long a plugin may take to finish its calls and come back.
const restartTimeout = 2 * time.Minute

func (t *tool) plugin() *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "Show and operate plugins"}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List the plugins, their states and processes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				r, err := c.ListPlugins(ctx, &adminv1.ListPluginsRequest{})
				if err != nil {
					return err
				}
				return t.plugins(r.Plugins)
			})
		},
	}, &cobra.Command{
		Use: "reset NAME", Short: "Let a failed plugin be started again", Args: cobra.ExactArgs(1),
		ValidArgsFunction: t.pluginNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				_, err := c.ResetPlugin(ctx, &adminv1.ResetPluginRequest{Name: args[0]})
				return err
			})
		},
	}, &cobra.Command{
		Use: "restart NAME", Short: "Let a plugin finish its calls, and start its binary anew; guests and storage go on", Args: cobra.ExactArgs(1),
		ValidArgsFunction: t.pluginNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.callFor(cmd.Context(), restartTimeout, func(ctx context.Context, c adminv1.HostServiceClient) error {
				r, err := c.RestartPlugin(ctx, &adminv1.RestartPluginRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return t.plugins([]*adminv1.Plugin{r.Plugin})
			})
		},
	})
	return cmd
}

// pluginNames completes the names of plugins.
func (t *tool) pluginNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	err := t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
		r, err := c.ListPlugins(ctx, &adminv1.ListPluginsRequest{})
		for _, p := range r.GetPlugins() {
			names = append(names, p.Name)
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (t *tool) guest() *cobra.Command {
	cmd := &cobra.Command{Use: "guest", Short: "Show guests of all connections"}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List guests with their processes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				r, err := c.ListGuests(ctx, &adminv1.ListGuestsRequest{})
				if err != nil {
					return err
				}
				return print(t, r.Guests, "URI\tID\tNAME\tSTATE\tPID\tGEN\tUUID", func(g *adminv1.GuestInfo) []string {
					return []string{g.Uri, dash(g.Id), g.Name, g.State, dash(g.Pid), fmt.Sprint(g.Generation), g.Uuid}
				})
			})
		},
	})
	return cmd
}

func (t *tool) events() *cobra.Command {
	var after uint64
	cmd := &cobra.Command{
		Use: "events", Short: "Follow what happens to guests until interrupted", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, closeConn, err := t.dial()
			if err != nil {
				return err
			}
			defer closeConn()
			stream, err := client.WatchEvents(cmd.Context(), &adminv1.WatchEventsRequest{After: after})
			for err == nil {
				var e *adminv1.WatchEventsResponse
				if e, err = stream.Recv(); err == nil {
					err = t.event(e)
				}
			}
			if cmd.Context().Err() != nil {
				return nil
			}
			return t.explain(err)
		},
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "resume after the event of this number")
	return cmd
}

func (t *tool) event(e *adminv1.WatchEventsResponse) error {
	if t.json {
		return t.line(e)
	}
	_, err := fmt.Fprintf(t.out, "%d  %s  %s  %s  %s  %v\n", e.Seq, e.Time.AsTime().Local().Format(time.DateTime), e.Kind, e.Uri, e.Name, e.Details)
	return err
}
