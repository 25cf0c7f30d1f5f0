// What a callback of the library has brought, and the callback of what brings nothing but that it has ended.
#include <stddef.h>
#include <stdint.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

struct lodge_reply {
	int done, status;
	char *text; // targets that were found, to be freed
	size_t size;
};

static inline void lodge_answered(struct iscsi_context *iscsi, int status, void *data, void *private) {
	struct lodge_reply *r = private;
	(void)iscsi;
	(void)data;
	r->status = status;
	r->done = 1;
}
