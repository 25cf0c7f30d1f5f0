package domain

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	basev1 "github.com/lodgevirt/lodge/sdk/proto/lodge/base/v1"
)

func TestOutcomeOfAFailedCall(t *testing.T) {
	vir := &basev1.VirError{Code: 1, Message: "no"}
	info := func(o basev1.Outcome) *basev1.CallInfo { return &basev1.CallInfo{Outcome: o} }
	tests := map[string]struct {
		code    codes.Code
		details []protoadapt.MessageV1
		want    outcome
	}{
		"the driver's own error":                      {codes.Internal, details(vir), refused},
		"the driver's own word of a deadline":         {codes.DeadlineExceeded, details(vir), refused},
		"an error without a word":                     {codes.Unimplemented, nil, refused},
		"a call that never left":                      {codes.Unavailable, details(vir, info(basev1.Outcome_OUTCOME_NOT_SENT)), refused},
		"a driver that died, told with a vir error":   {codes.Unavailable, details(vir, info(basev1.Outcome_OUTCOME_UNKNOWN)), orphaned},
		"a driver that died, told the other way":      {codes.Unavailable, details(info(basev1.Outcome_OUTCOME_UNKNOWN), vir), orphaned},
		"a driver that died, without a word":          {codes.Unavailable, nil, orphaned},
		"a driver that is slow":                       {codes.DeadlineExceeded, details(vir, info(basev1.Outcome_OUTCOME_UNKNOWN)), slow},
		"a call that was broken off":                  {codes.Canceled, nil, slow},
		"a broken call that is told to have happened": {codes.Unavailable, details(info(basev1.Outcome_OUTCOME_APPLIED)), orphaned},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st, err := status.New(tt.code, "x").WithDetails(tt.details...)
			if err != nil {
				t.Fatal(err)
			}
			if got := outcomeOf(st.Err()); got != tt.want {
				t.Fatalf("outcome %d, want %d", got, tt.want)
			}
		})
	}
	if got := outcomeOf(errors.New("plain")); got != refused {
		t.Fatalf("outcome of a plain error %d", got)
	}
}

func details(m ...protoadapt.MessageV1) []protoadapt.MessageV1 { return m }
