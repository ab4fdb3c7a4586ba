/* The start of a program on an emulated Cortex-M board; it speaks to QEMU by semihosting. */
#include <stdint.h>
#include <string.h>

extern uint32_t stack_top[], data_start[], data_end[], data_load[], bss_start[], bss_end[];
int main(void);

static int semihosting(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void say(const char *text) { semihosting(0x04, text); }

/* A file of the machine that runs QEMU: mode 1 reads bytes, 5 writes them. */
int open_file(const char *name, uint32_t mode) {
  const uint32_t arguments[] = {(uint32_t)name, mode, (uint32_t)strlen(name)};
  return semihosting(0x01, arguments);
}

/* How many of the bytes were not read, or not written. */
int read_file(int file, void *to, uint32_t count) {
  const uint32_t arguments[] = {(uint32_t)file, (uint32_t)to, count};
  return semihosting(0x06, arguments);
}

int write_file(int file, const void *from, uint32_t count) {
  const uint32_t arguments[] = {(uint32_t)file, (uint32_t)from, count};
  return semihosting(0x05, arguments);
}

static void leave(int code) {
  const uint32_t arguments[] = {0x20026, (uint32_t)code};
  semihosting(0x20, arguments);
  for (;;) {
  }
}

void reset(void) {
#ifdef __ARM_FP
  *(volatile uint32_t *)0xE000ED88 |= 0xF << 20; /* the float unit is off at first */
  __asm__ volatile("dsb\n isb");
#endif
  memcpy(data_start, data_load, (size_t)((char *)data_end - (char *)data_start));
  memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
  leave(main());
}

static void fault(void) {
  say("the processor took a fault\n");
  leave(4);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
  stack_top, reset, fault, fault, fault, fault, fault,
};
