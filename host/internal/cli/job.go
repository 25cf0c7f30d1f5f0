package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
)

func (t *tool) job() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "Show and cancel long work on storage: refreshes, builds, copies, wipes, transfers"}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List the work that is under way, and how far it is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			jobs, err := t.jobs(cmd.Context())
			if err != nil {
				return err
			}
			return print(t, jobs, "JOB\tWORK\tPOOL\tVOLUME\tSINCE\tDONE", func(j *adminv1.Job) []string {
				return []string{fmt.Sprint(j.Id), j.Kind, j.Pool, j.Volume, j.Since.AsTime().Local().Format(time.DateTime), howFar(j)}
			})
		},
	}, &cobra.Command{
		Use: "cancel JOB", Short: "Cancel work by its number; whoever has asked for it is told", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			jobs, err := t.jobs(cmd.Context())
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var ids []string
			for _, j := range jobs {
				ids = append(ids, fmt.Sprintf("%d\t%s %s %s", j.Id, j.Kind, j.Pool, j.Volume))
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return fmt.Errorf("%q is no number of a job: see lodge job list", args[0])
			}
			return t.call(cmd.Context(), func(ctx context.Context, c adminv1.HostServiceClient) error {
				_, err := c.CancelJob(ctx, &adminv1.CancelJobRequest{Id: id})
				return err
			})
		},
	})
	return cmd
}

// jobs asks for all jobs.
func (t *tool) jobs(ctx context.Context) (jobs []*adminv1.Job, err error) {
	err = t.call(ctx, func(ctx context.Context, c adminv1.HostServiceClient) error {
		r, err := c.ListJobs(ctx, &adminv1.ListJobsRequest{})
		jobs = r.GetJobs()
		return err
	})
	return jobs, err
}

// howFar tells a job's progress: a share where it is known, volumes of a refresh, bytes of all else.
func howFar(j *adminv1.Job) string {
	switch {
	case j.Total > 0:
		return fmt.Sprintf("%d %%", min(100, uint64(float64(j.Done)/float64(j.Total)*100)))
	case j.Kind == "refresh":
		return fmt.Sprintf("%d volumes", j.Done)
	}
	return fmt.Sprintf("%d MiB", j.Done>>20)
}
