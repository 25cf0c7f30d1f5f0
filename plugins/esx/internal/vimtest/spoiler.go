package vimtest

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
)

// Spoiler answers in the place of the simulator.
type Spoiler struct {
	next http.Handler

	mu sync.Mutex
	// spoil is by the name of a method, "" for all.
	spoil map[string]http.HandlerFunc
	calls map[string]int
}

// Garbage answers a method ("" for all) with bytes that are no SOAP.
func (s *Spoiler) Garbage(method string) {
	s.set(method, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = w.Write([]byte("\x00<soap <<>> \xff not at all"))
	})
}

// Empty answers a method ("" for all) with SOAP that holds nothing.
func (s *Spoiler) Empty(method string) {
	s.set(method, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		_, _ = w.Write([]byte(emptyAnswer))
	})
}

// Fault answers a method ("" for all) with a fault of vSphere's, for example "NoPermission".
func (s *Spoiler) Fault(method, fault string) {
	s.set(method, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprintf(w, faultAnswer, fault)
	})
}

// Unavailable answers a method ("" for all) with HTTP's 503, as a host does while its services start.
func (s *Spoiler) Unavailable(method string) {
	s.set(method, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
}

// Off lets the simulator answer again.
func (s *Spoiler) Off() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoil = nil
}

// Calls counts the calls of a method that have come in.
func (s *Spoiler) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

func (s *Spoiler) set(method string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spoil == nil {
		s.spoil = map[string]http.HandlerFunc{}
	}
	s.spoil[method] = h
}

// ServeHTTP answers a call, or lets the simulator do it.
func (s *Spoiler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if method, ok := fileMethod(r); ok {
		s.choose(method).ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.choose(methodOf(body)).ServeHTTP(w, r)
}

func (s *Spoiler) choose(method string) http.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[method]++
	for _, name := range []string{method, ""} {
		if h := s.spoil[name]; h != nil {
			return h
		}
	}
	return s.next
}

// methodOf finds the name of the first element in the body of a SOAP request.
func methodOf(envelope []byte) string {
	_, rest, found := bytes.Cut(envelope, []byte("Body>"))
	if !found {
		return ""
	}
	rest = bytes.TrimLeft(rest, " \r\n\t<")
	if end := bytes.IndexAny(rest, " />"); end >= 0 {
		return string(rest[:end])
	}
	return ""
}

// faultAnswer is a SOAP fault with a vSphere fault for detail.
const faultAnswer = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<soapenv:Body><soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>spoiled by the test</faultstring>
<detail><Fault xmlns="urn:vim25" xsi:type="%s"></Fault></detail>
</soapenv:Fault></soapenv:Body></soapenv:Envelope>`

// emptyAnswer is SOAP without an answer.
const emptyAnswer = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body></soapenv:Body></soapenv:Envelope>`

// discard is a logger for handshakes that tests break on purpose.
func discard() *log.Logger { return log.New(io.Discard, "", 0) }
