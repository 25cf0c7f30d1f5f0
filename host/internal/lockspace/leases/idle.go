package leases

// maxIdle bounds how many owners without a lease are remembered with their processes. An owner that takes and drops locks by turns, as
// those of virtlockd's protocol do, would otherwise have its process looked up each time.
const maxIdle = 256

// idleLinks are a group's neighbours among the idle ones.
type idleLinks struct {
	in            bool
	before, after *group
}

// idleList is the idle groups, longest idle first. It is guarded by Table.mu.
type idleList struct {
	first, last *group
	count       int
}

// add puts a group at the end, and returns one that has to go for it, or nil.
func (i *idleList) add(g *group) *group {
	if g.idle.in {
		return nil
	}
	g.idle = idleLinks{in: true, before: i.last}
	if i.last != nil {
		i.last.idle.after = g
	} else {
		i.first = g
	}
	i.last = g
	i.count++
	if i.count <= maxIdle {
		return nil
	}
	oldest := i.first
	i.remove(oldest)
	return oldest
}

// remove takes a group out, if it is in.
func (i *idleList) remove(g *group) {
	if !g.idle.in {
		return
	}
	if g.idle.before != nil {
		g.idle.before.idle.after = g.idle.after
	} else {
		i.first = g.idle.after
	}
	if g.idle.after != nil {
		g.idle.after.idle.before = g.idle.before
	} else {
		i.last = g.idle.before
	}
	g.idle = idleLinks{}
	i.count--
}
