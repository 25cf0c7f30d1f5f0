package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
)

func (t *tool) lock() *cobra.Command {
	cmd := &cobra.Command{Use: "lock", Short: "Show and release the locks of guests' disks"}
	cmd.AddCommand(t.lockList(), t.lockShow(), t.lockRelease())
	return cmd
}

func (t *tool) lockList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List locks with their owners", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			locks, err := t.locks(cmd.Context())
			if err != nil {
				return err
			}
			return print(t, locks, "ID\tGUEST\tPID\tMODE\tSTATE\tSINCE\tDISK\tLOCK", func(l *adminv1.Lock) []string {
				return []string{l.Id, l.OwnerName, dash(l.OwnerPid), mode(l), l.State, since(l), l.Disk, l.Path}
			})
		},
	}
}

// locks asks for all locks.
func (t *tool) locks(ctx context.Context) (locks []*adminv1.Lock, err error) {
	err = t.call(ctx, func(ctx context.Context, c adminv1.HostServiceClient) error {
		r, err := c.ListLocks(ctx, &adminv1.ListLocksRequest{})
		locks = r.GetLocks()
		return err
	})
	return locks, err
}

func mode(l *adminv1.Lock) string {
	if l.Shared {
		return "shared"
	}
	return "exclusive"
}

func since(l *adminv1.Lock) string { return l.Since.AsTime().Local().Format(time.DateTime) }

func (t *tool) lockShow() *cobra.Command {
	return &cobra.Command{
		Use: "show LOCK", Short: "Show everything that is known of a lock",
		Long:              "Show everything that is known of a lock, named by its id, its disk or its path; of all of them if several owners share it.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.lockNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := t.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for n, l := range found {
				if n > 0 && !t.json {
					fmt.Fprintln(t.out)
				}
				if err := t.describe(l); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// find returns the locks that a word names: one by its id, or all on a disk or path.
func (t *tool) find(ctx context.Context, word string) ([]*adminv1.Lock, error) {
	locks, err := t.locks(ctx)
	if err != nil {
		return nil, err
	}
	var found []*adminv1.Lock
	for _, l := range locks {
		if l.Id == word {
			return []*adminv1.Lock{l}, nil
		}
		if l.Disk == word || l.Path == word || l.Resource == word {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no lock has the id, disk or path %q: see lodge lock list", word)
	}
	return found, nil
}

// describe prints a lock in full.
func (t *tool) describe(l *adminv1.Lock) error {
	if t.json {
		return t.line(l)
	}
	lives := "gone, or not known here"
	if l.OwnerLives {
		lives = "lives"
	}
	rows := [][2]string{
		{"id", l.Id},
		{"disk", l.Disk},
		{"lock", l.Path},
		{"lockspace", l.Lockspace},
		{"resource", l.Resource},
		{"mode", mode(l)},
		{"state", l.State},
		{"detail", l.Detail},
		{"since", since(l)},
		{"manager", l.Manager},
		{"guest", l.OwnerName},
		{"uuid", l.OwnerUuid},
		{"generation", fmt.Sprint(l.OwnerGeneration)},
		{"pid", dash(l.OwnerPid)},
		{"owner", lives},
	}
	for _, r := range rows {
		if r[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(t.out, "%-11s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

func (t *tool) lockRelease() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "release LOCK", Short: "Free a lock in the place of its owner",
		Long: "Free a lock in the place of its owner, named by its id, or by its disk or path where only one owner has it.\n" +
			"A lock whose owner lives is freed only with --force: the guest then loses it and is paused, powered off, restarted or\n" +
			"left alone, as its <on_lockfailure> says. Be sure that nothing writes to the disk from two sides.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.lockNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			found, err := t.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if len(found) > 1 {
				ids := make([]string, len(found))
				for n, l := range found {
					ids[n] = fmt.Sprintf("%s (%s)", l.Id, l.OwnerName)
				}
				return fmt.Errorf("%d owners have %q: name one by its id: %s", len(found), args[0], strings.Join(ids, ", "))
			}
			return t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				r, err := c.ReleaseLock(ctx, &adminv1.ReleaseLockRequest{Id: found[0].Id, Force: force})
				if err != nil {
					return err
				}
				if t.json {
					return t.line(r.Lock)
				}
				_, err = fmt.Fprintf(t.out, "lock %s of %q on %s is released\n", r.Lock.Id, r.Lock.OwnerName, r.Lock.Path)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if the owner lives, which then loses the lock")
	return cmd
}

// lockNames completes the ids of locks.
func (t *tool) lockNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	locks, err := t.locks(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var ids []string
	for _, l := range locks {
		ids = append(ids, fmt.Sprintf("%s\t%s: %s", l.Id, l.OwnerName, l.Path))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
