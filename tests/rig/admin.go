package rig

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/lodgevirt/lodge/sdk/proto/lodge/admin/v1"
)

// adminWait bounds each call of the host's own API.
const adminWait = 10 * time.Second

// Admin connects to the host's own API. The caller closes the connection.
func (h *Host) Admin() (adminv1.HostServiceClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+h.AdminSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the host's API: %w", err)
	}
	return adminv1.NewHostServiceClient(conn), conn, nil
}

// Locks lists the locks that the lock daemon holds.
func (h *Host) Locks(ctx context.Context) ([]*adminv1.Lock, error) {
	client, conn, err := h.Admin()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, adminWait)
	defer cancel()
	resp, err := client.ListLocks(ctx, &adminv1.ListLocksRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("list locks: %w", err)
	}
	return resp.GetLocks(), nil
}

// Status reads the host at a glance.
func (h *Host) Status(ctx context.Context) (*adminv1.GetStatusResponse, error) {
	client, conn, err := h.Admin()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, adminWait)
	defer cancel()
	resp, err := client.GetStatus(ctx, &adminv1.GetStatusRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return resp, nil
}

// ResetPlugin has a plugin that waits after a crash started at once, as an operator does.
func (h *Host) ResetPlugin(ctx context.Context, name string) error {
	client, conn, err := h.Admin()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, adminWait)
	defer cancel()
	if _, err := client.ResetPlugin(ctx, &adminv1.ResetPluginRequest{Name: name}, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("reset plugin %q: %w", name, err)
	}
	return nil
}
