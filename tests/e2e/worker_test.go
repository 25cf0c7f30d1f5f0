package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// belief is what the answers to a worker's calls say about something: yes, no, or that an answer was lost.
type belief int

const (
	unknown belief = iota
	yes
	no
)

// estate is a domain of a worker and what is believed of it.
type estate struct {
	name    string
	image   string
	defined belief
	active  belief
}

// domainsEach is how many domains a worker has.
const domainsEach = 4

// worker defines, starts, destroys and undefines domains of its own at random for as long as the siege lasts.
type worker struct {
	siege   *siege
	random  *rand.Rand
	domains []*estate
	conn    *libvirt.Libvirt
	// answered counts calls that succeeded.
	answered int
}

// newWorker makes a worker with its images.
func newWorker(s *siege, number int) *worker {
	w := &worker{siege: s, random: rand.New(rand.NewPCG(s.random.Uint64(), uint64(number)))}
	for i := range domainsEach {
		name := fmt.Sprintf("worker-%d-%d", number, i)
		w.domains = append(w.domains, &estate{name: name, image: s.image(name), defined: no, active: no})
	}
	return w
}

// run works until the siege is over.
func (w *worker) run() {
	defer w.hangUp()
	for {
		select {
		case <-w.siege.stop:
			return
		default:
		}
		if !w.dial() {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		w.act(w.domains[w.random.IntN(len(w.domains))])
	}
}

// dial connects if there is no connection.
func (w *worker) dial() bool {
	if w.conn != nil && w.conn.IsConnected() {
		return true
	}
	conn, err := w.siege.host.Dial(w.siege.uri)
	if err != nil {
		return false
	}
	w.conn = conn
	return true
}

// hangUp closes the connection.
func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Disconnect() // It may be gone already.
		w.conn = nil
	}
}

// act does something at random to a domain and notes what its answer says.
func (w *worker) act(d *estate) {
	switch w.random.IntN(8) {
	case 0, 1:
		_, err := w.conn.DomainDefineXML(w.siege.definition(d.name, d.image))
		w.note(err, &d.defined, yes)
	case 2, 3, 4:
		w.with(d, func(dom libvirt.Domain) {
			w.change(d, w.conn.DomainCreate(dom), yes)
		})
	case 5, 6:
		w.with(d, func(dom libvirt.Domain) {
			w.change(d, w.conn.DomainDestroy(dom), no)
		})
	case 7:
		// Without its definition an active domain would vanish at its end, and say less.
		if d.active == no {
			w.with(d, func(dom libvirt.Domain) { w.note(w.conn.DomainUndefine(dom), &d.defined, no) })
		}
	}
}

// with looks a domain up and does something with it.
func (w *worker) with(d *estate, do func(libvirt.Domain)) {
	dom, err := w.conn.DomainLookupByName(d.name)
	switch {
	case err == nil:
		do(dom)
	case libvirt.IsNotFound(err) && d.defined == yes:
		w.siege.t.Errorf("%s was defined, and is not found", d.name)
		d.defined = unknown
	}
}

// note notes what an answer says: a success is certain, after an error nothing is.
func (w *worker) note(err error, of *belief, then belief) {
	if err != nil {
		*of = unknown
		return
	}
	*of = then
	w.answered++
}

// change notes the answer to a start or a destroy. "It is so already" contradicts what was acknowledged otherwise, and proves nothing
// after a lost answer: a destroy whose answer was lost may still be under way.
func (w *worker) change(d *estate, err error, then belief) {
	if !isCode(err, libvirt.ErrOperationInvalid) {
		w.note(err, &d.active, then)
		return
	}
	if d.active != then && d.active != unknown {
		w.siege.t.Errorf("%s: %v, which is not what was acknowledged", d.name, err)
		d.active = unknown
	}
}

// isCode says whether an error is libvirt's with this code.
func isCode(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}
