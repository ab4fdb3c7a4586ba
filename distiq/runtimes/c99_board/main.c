/* Replays the test vectors: every output has the bytes that the same file gave where the vectors were made. */
#include <string.h>

#include "vectors.h"

#ifdef DISTIQ_SEMIHOSTING
void say(const char *text);
#else
#include <stdio.h>
static void say(const char *text) { fputs(text, stdout); }
#endif

static void say_number(int number) {
  char digits[12];
  int place = 11;
  digits[place] = 0;
  do digits[--place] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  say(digits + place);
}

int main(void) {
  int same = 0;
  for (int vector = 0; vector < VECTORS; vector++) {
    RUN(vector);
    same += SAME(vector);
  }
  say_number(same);
  say(" of ");
  say_number(VECTORS);
  say(" test vectors have the same bytes\n");
  return same == VECTORS ? 0 : 3;
}
