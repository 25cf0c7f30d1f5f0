package cmdline

import (
	"reflect"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// supported lists what a definition may have when it is started: for the path of an element the names of its attributes and
// child elements. A name with a star stands for everything below it. Fields that libvirtxml holds in a union go by the
// name of the field in lower case.
var supported = map[string]string{
	"domain": "type id name uuid title description metadata* memory currentMemory memoryBacking vcpu iothreads " +
		"iothreadids sysinfo* os features cpu clock on_poweroff* on_reboot* on_crash* pm* devices seclabel* resource",
	"domain/resource":             "partition",
	"domain/memory":               "value unit dumpCore",
	"domain/currentMemory":        "value unit",
	"domain/memoryBacking":        "nosharepages* locked* source* access* allocation* discard*",
	"domain/vcpu":                 "placement current value",
	"domain/iothreadids":          "iothread",
	"domain/iothreadids/iothread": "id",
	"domain/os":                   "type firmware firmware* loader* nvram* kernel initrd cmdline dtb boot* bootmenu* bios smbios*",
	"domain/os/type":              "arch machine type value",
	"domain/os/bios":              "rebootTimeout",
	"domain/features":             "pae* acpi* apic* hyperv* kvm pvspinlock* pmu* vmport* smm ioapic* vmcoreinfo* tcg* ps2*",
	"domain/features/kvm":         "hidden* hint-dedicated* poll-control* pv-ipi*",
	"domain/features/smm":         "state",
	"domain/cpu":                  "match mode check migratable model* vendor topology* feature* numa",
	"domain/cpu/numa":             "cell",
	"domain/cpu/numa/cell":        "id cpus memory unit memAccess discard distances*",
	"domain/clock":                "offset basis adjustment timezone start timer",
	"domain/clock/timer":          "name track tickpolicy frequency present",
	"domain/devices": "emulator disk controller filesystem interface serial parallel console channel input tpm " +
		"graphics* sound audio video memballoon rng redirdev* redirfilter* hub watchdog panic lease*",
	"domain/devices/disk": "device snapshot model driver source backingStore* geometry* blockio* target* readonly* " +
		"shareable* serial wwn vendor product boot* alias* address* auth* encryption*",
	"domain/devices/disk/driver": "name type cache error_policy rerror_policy io ioeventfd event_idx copy_on_read " +
		"discard iothread detect_zeroes queues queue_size iommu ats packed page_per_vq",
	"domain/devices/disk/source":           "file block network volume* encryption* ssl* cookies* readahead* timeout* startupPolicy index",
	"domain/devices/disk/source/network":   "protocol name query tls* host* initiator* snapshot* config* reconnect* auth*",
	"domain/devices/disk/source/file":      "file seclabel*",
	"domain/devices/disk/source/block":     "dev seclabel*",
	"domain/devices/controller":            "type index model driver pci usb* virtioserial* alias* address*",
	"domain/devices/controller/driver":     "queues cmd_per_lun max_sectors ioeventfd iothread iommu ats packed page_per_vq",
	"domain/devices/controller/pci":        "model* target",
	"domain/devices/controller/pci/target": "chassisnr chassis port hotplug",
	"domain/devices/filesystem":            "accessmode model multidevs fmode dmode driver source* target* readonly* alias* address*",
	"domain/devices/filesystem/driver":     "type",
	"domain/devices/interface": "managed mac source* boot* ip portForward* target* model* driver backend link* mtu* rom* " +
		"alias* address*",
	"domain/devices/interface/mac":     "address type check",
	"domain/devices/interface/ip":      "address family prefix",
	"domain/devices/interface/backend": "type",
	"domain/devices/interface/driver": "name txmode ioeventfd event_idx queues rx_queue_size tx_queue_size iommu ats packed " +
		"page_per_vq host* guest*",
	"domain/devices/serial":                      "source* protocol* target* log* alias* address*",
	"domain/devices/parallel":                    "source* protocol* target* log* alias* address*",
	"domain/devices/console":                     "tty source* protocol* target* log* alias* address*",
	"domain/devices/channel":                     "source* protocol* target* log* alias* address*",
	"domain/devices/input":                       "type bus model driver* source* alias* address*",
	"domain/devices/tpm":                         "model backend alias* address*",
	"domain/devices/tpm/backend":                 "emulator passthrough external",
	"domain/devices/tpm/backend/emulator":        "version source persistent_state",
	"domain/devices/tpm/backend/emulator/source": "dir*",
	"domain/devices/sound":                       "model multichannel codec* audio* alias* address*",
	"domain/devices/audio":                       "id timerPeriod none spice file alsa* coreaudio* jack* oss* pulseaudio* sdl* dbus* pipewire*",
	"domain/devices/audio/file":                  "path",
	"domain/devices/video":                       "model* driver alias* address*",
	"domain/devices/video/driver":                "name iommu ats packed page_per_vq",
	"domain/devices/memballoon":                  "model autodeflate freePageReporting driver* stats* alias* address*",
	"domain/devices/rng":                         "model driver* rate* backend* alias* address*",
	"domain/devices/hub":                         "type alias* address*",
	"domain/devices/watchdog":                    "model action alias* address*",
	"domain/devices/panic":                       "model alias* address*",
}

// reasons are the sentences for what people meet most; the rest is refused by its path alone.
var reasons = map[string]string{
	"domain/devices/hostdev":               "host devices are not supported by this driver yet",
	"domain/devices/shmem":                 "shared memory devices are not supported by this driver yet",
	"domain/devices/memory":                "memory devices are not supported by this driver yet",
	"domain/devices/smartcard":             "smartcards are not supported by this driver yet",
	"domain/devices/iommu":                 "an IOMMU for the guest is not supported by this driver yet",
	"domain/devices/vsock":                 "vsock is not supported by this driver yet",
	"domain/maxMemory":                     "memory hotplug is not supported by this driver yet",
	"domain/memoryBacking/hugepages":       "huge pages are not supported by this driver yet",
	"domain/blkiotune":                     "limits on block I/O are not applied by this driver yet",
	"domain/cputune":                       "CPU tuning is not applied by this driver yet",
	"domain/memtune":                       "limits on memory are not applied by this driver yet",
	"domain/numatune":                      "NUMA placement is not applied by this driver yet",
	"domain/vcpu/cpuset":                   "pinning of vCPUs is not applied by this driver yet",
	"domain/vcpus":                         "settings of single vCPUs are not supported by this driver yet",
	"domain/launchSecurity":                "launch security is not supported by this driver yet",
	"domain/devices/disk/iotune":           "limits on the I/O of a disk are not applied by this driver yet",
	"domain/devices/disk/source/dir":       "folders as disks are not supported by this driver yet",
	"domain/devices/disk/source/nvme":      "NVMe disks are not supported by this driver yet",
	"domain/devices/disk/source/vhostuser": "vhost-user disks are not supported by this driver yet",
	"domain/devices/disk/source/vhostvdpa": "vDPA disks are not supported by this driver yet",
	"domain/devices/disk/mirror":           "a disk's mirror cannot be started",
	"domain/devices/interface/bandwidth":   "limits on the bandwidth of an interface are not applied by this driver yet",
	"domain/devices/interface/filterref":   "network filters are not supported: no network filter driver serves them",
	"domain/devices/interface/vlan":        "VLAN tags of an interface are not supported: no network driver serves them",
	"domain/devices/interface/script":      "scripts of an interface are not run by this driver",
}

// CheckSupported refuses a definition that has something which Build does not handle, naming it.
func CheckSupported(d *libvirtxml.Domain) error {
	return checkStruct(reflect.ValueOf(d).Elem(), "domain")
}

func checkStruct(v reflect.Value, path string) error {
	allowed := strings.Fields(supported[path])
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Name == "XMLName" || v.Field(i).IsZero() {
			continue
		}
		if field.Anonymous {
			if err := checkStruct(v.Field(i), path); err != nil {
				return err
			}
			continue
		}
		name := xmlName(field)
		if contains(allowed, name+"*") {
			continue
		}
		if !contains(allowed, name) {
			return refuse(path + "/" + name)
		}
		if err := checkValue(v.Field(i), path+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

func checkValue(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.Pointer:
		return checkValue(v.Elem(), path)
	case reflect.Slice:
		for i := range v.Len() {
			if err := checkValue(v.Index(i), path); err != nil {
				return err
			}
		}
	case reflect.Struct:
		return checkStruct(v, path)
	}
	return nil
}

// xmlName returns the name of a field in XML, or the field's own in lower case if its parent writes it by hand.
func xmlName(f reflect.StructField) string {
	name, kind, _ := strings.Cut(f.Tag.Get("xml"), ",")
	switch {
	case name != "" && name != "-":
		return name[strings.LastIndexByte(name, ' ')+1:]
	case strings.HasPrefix(kind, "chardata"), strings.HasPrefix(kind, "cdata"):
		return "value"
	}
	return strings.ToLower(f.Name)
}

func refuse(path string) error {
	if why, ok := reasons[path]; ok {
		return unsupported("%s", why)
	}
	return unsupported("<%s> is not supported by this driver yet",
		strings.ReplaceAll(strings.TrimPrefix(path, "domain/"), "/", "><"))
}
