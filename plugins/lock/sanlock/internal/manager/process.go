package manager

import (
	"github.com/lodgevirt/lodge/sdk/procfs"
	pb "github.com/lodgevirt/lodge/sdk/proto/lodge/lock/v1"
)

// lives reports whether an owner's process is there: that very one, and not yet dead.
func lives(who *pb.Owner) bool {
	if who.GetPid() <= 0 {
		return false
	}
	stat, err := procfs.ReadStat(int(who.GetPid()))
	return err == nil && stat.StartTime == who.GetStartTime() && !stat.Ended()
}
