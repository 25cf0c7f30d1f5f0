package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// signals are what the daemon is told by signals, from its first moment on: what comes while it starts is done once it runs.
type signals struct {
	all chan os.Signal
	// reload and replace are asked for by SIGHUP and SIGUSR1. However often that was, once is enough.
	reload, replace chan struct{}
	end             context.CancelFunc
}

var (
	ending = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT}
	asking = []os.Signal{syscall.SIGHUP, syscall.SIGUSR1}
)

// catch starts to listen. The context ends with the signals that end the daemon, or when stop is called.
func catch() (s *signals, ctx context.Context, stop func()) {
	s = &signals{all: make(chan os.Signal, 16), reload: make(chan struct{}, 1), replace: make(chan struct{}, 1)}
	ctx, s.end = context.WithCancel(context.Background())
	s.arm()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sig := range s.all {
			s.hear(sig)
		}
	}()
	return s, ctx, func() {
		signal.Stop(s.all)
		close(s.all)
		<-done
		s.end()
	}
}

func (s *signals) arm() {
	signal.Notify(s.all, ending...)
	signal.Notify(s.all, asking...)
}

func (s *signals) hear(sig os.Signal) {
	if h, ok := sig.(heard); ok {
		close(h)
		return
	}
	ask := s.reload
	switch {
	case sig == syscall.SIGUSR1:
		ask = s.replace
	case sig != syscall.SIGHUP:
		s.end()
		return
	}
	select {
	case ask <- struct{}{}:
	default:
	}
}

// heard is no signal: it is closed when all signals before it were heard.
type heard chan struct{}

func (heard) Signal()        {}
func (heard) String() string { return "all heard" }

// errEnding says that the daemon was told to end.
var errEnding = errors.New("the daemon was told to end")

// disarm is for the moment before execve: from now on signals that end the daemon do so at once, because nobody would hear of them any more,
// and the others are not heard, neither here nor in the program that follows until it listens. It returns errEnding if the daemon was
// told to end before.
func (s *signals) disarm(ctx context.Context) error {
	signal.Ignore(asking...)
	signal.Stop(s.all)
	h := make(heard)
	s.all <- h
	<-h
	if ctx.Err() != nil {
		return errEnding
	}
	return nil
}
