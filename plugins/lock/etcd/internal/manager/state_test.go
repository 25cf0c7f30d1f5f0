package manager

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/lodgevirt/lodge/plugins/lock/etcd/internal/record"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

func FuzzParseRight(f *testing.F) {
	f.Add([]byte(`{"instance":"6695eb01-f6a4-8304-79aa-97f2502e1930","boot":"b","lease":-7,"ttl":30000000000}`))
	f.Add([]byte(`{"instance":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRight(text)
		if err == nil && (r.Instance == "" || strings.Contains(r.Instance, "/") || r.adopted || r.fence != 0) {
			t.Errorf("%q was read as %+v", text, r)
		}
	})
}

// FuzzLoad reads records of what owners have, owe and remember.
func FuzzLoad(f *testing.F) {
	who := &pb.Owner{Uuid: "6695eb01-f6a4-8304-79aa-97f2502e1930", Generation: 1}
	for _, m := range []proto.Message{
		&pb.RecoverRequest{Owner: who, Resources: []*pb.Resource{{Disk: "/a"}}},
		&pb.ReleaseRequest{Owner: who, Resources: []*pb.Resource{{Key: "a"}}, Suspend: true},
		&pb.AcquireRequest{Owner: who, State: []byte(`{"v":1,"e":{}}`)},
	} {
		text, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, load := range []func([]byte, func(*pb.Owner) *owner) error{loadOwner, loadOwed, loadAsleep} {
			owners := map[record.Life]*owner{}
			_ = load(text, func(info *pb.Owner) *owner {
				if err := checkOwner(info); err != nil {
					t.Errorf("owner %v was not checked", info)
				}
				l := record.LifeOf(info)
				if owners[l] == nil {
					owners[l] = newOwner(l)
				}
				return owners[l]
			})
			buryDead(owners)
		}
	})
}
