/* Computes every sample of in.bin on an emulated board, into out.bin; TAKES and GIVES are bytes of a sample. */
#include <stdint.h>

#include "model.h"

void say(const char *text);
int open_file(const char *name, uint32_t mode);
int read_file(int file, void *to, uint32_t count);
int write_file(int file, const void *from, uint32_t count);

static int32_t in[(TAKES + 3) / 4], out[(GIVES + 3) / 4];

int main(void) {
  int from = open_file("in.bin", 1), to = open_file("out.bin", 5);
  if (from < 0 || to < 0) return 5;
  while (read_file(from, in, TAKES) == 0) {
    model_run((void *)in, (void *)out);
    if (write_file(to, out, GIVES) != 0) return 6;
  }
  return 0;
}
