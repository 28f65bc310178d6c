/* Takes gradient steps with a compiled library, one batch of a stack after the other; see step_loop.py.

   The functions are those of torch's C interface for compiled libraries (torch/csrc/inductor/aoti_torch/c/shim.h and
   aoti_runtime/interface.h). They return 0 if they succeed. A reference that is passed to `run` belongs to the library
   from then on, so it gets copies of those in `inputs`. Two outputs of a library may be one reference. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef void *Tensor;

typedef struct {
  int32_t (*run)(void *library, Tensor *inputs, size_t num_inputs, Tensor *outputs, size_t num_outputs, void *, void *);
  int32_t (*view)(Tensor, int64_t ndim, const int64_t *sizes, const int64_t *strides, int64_t offset, Tensor *result);
  int32_t (*copy_reference)(Tensor, Tensor *result);
  int32_t (*data)(Tensor, void **result);
  int32_t (*strides)(Tensor, int64_t **result);
  int32_t (*drop)(Tensor);
} Functions;

typedef struct {
  int64_t input; /* which input of the library is a batch of this stack */
  int64_t ndim;
  const int64_t *sizes, *strides; /* of a batch */
  int64_t distance;               /* in memory, from one batch to the next */
} Stack;

typedef struct {
  int64_t input, output; /* an output that is an input of the next step */
} Carried;

typedef struct {
  int64_t flags, metrics, counted; /* which outputs these are */
  int64_t num_metrics, num_members;
} Places;

typedef struct {
  double *metrics; /* [count, num_metrics, num_members] */
  char *counted;   /* [count, num_members] */
} Kept;

typedef struct {
  int64_t steps; /* the next step */
  int64_t going; /* whether any member takes part in it */
} Progress;

/* Copy the metrics and the counts of step k. Return 0, or 1 if a function failed or they have other strides. */
static int keep(const Functions *call, Tensor *outputs, const Places *places, const Kept *kept, int64_t k) {
  const int64_t m = places->num_metrics, s = places->num_members;
  Tensor metrics = outputs[places->metrics], counted = outputs[places->counted];
  int64_t *of_metrics, *of_counted;
  void *from_metrics, *from_counted;
  if (call->strides(metrics, &of_metrics) || call->strides(counted, &of_counted)) return 1;
  if ((s > 1 && (of_metrics[1] != 1 || of_counted[0] != 1)) || (m > 1 && of_metrics[0] != s)) return 1;
  if (call->data(metrics, &from_metrics) || call->data(counted, &from_counted)) return 1;
  memcpy(kept->metrics + k * m * s, from_metrics, (size_t)(m * s) * sizeof(double));
  memcpy(kept->counted + k * s, from_counted, (size_t)s);
  return 0;
}

/* Take the steps `progress->steps` to `count - 1`. Stop before a step in which a member fails, or whose results only
   Python can keep, and after one that leaves no member for the next. Afterward `inputs` has the carried tensors, and
   `kept` the metrics and counts of every step. Return 0, or 1 if a function failed: the run then ends, and references
   are lost. */
int32_t pgzoo_take_steps(const Functions *call, void *library, Tensor *inputs, Tensor *passed, size_t num_inputs,
                         Tensor *outputs, size_t num_outputs, const Stack *stacks, int64_t num_stacks,
                         const Carried *carried, int64_t num_carried, const Places *places, const Kept *kept,
                         int64_t count, Progress *progress) {
  for (int64_t k = progress->steps; k < count && progress->going; k++) {
    int64_t next = 0;
    for (size_t i = 0; i < num_inputs; i++) {
      int32_t failed;
      if (next < num_stacks && stacks[next].input == (int64_t)i) {
        const Stack *s = &stacks[next++];
        failed = call->view(inputs[i], s->ndim, s->sizes, s->strides, k * s->distance, &passed[i]);
      } else {
        failed = call->copy_reference(inputs[i], &passed[i]);
      }
      if (failed) return 1;
    }
    for (size_t i = 0; i < num_outputs; i++) outputs[i] = NULL;
    if (call->run(library, passed, num_inputs, outputs, num_outputs, NULL, NULL)) return 1;
    void *flags;
    if (call->data(outputs[places->flags], &flags)) return 1;
    int leave = ((const char *)flags)[0], going = ((const char *)flags)[1]; /* leave: to Python */
    for (size_t i = 0; i < num_outputs; i++)
      for (size_t j = 0; j < i; j++)
        if (outputs[i] && outputs[i] == outputs[j]) outputs[i] = NULL, leave = 1;
    if (!leave) leave = keep(call, outputs, places, kept, k);
    if (!leave) {
      for (int64_t c = 0; c < num_carried; c++) {
        call->drop(inputs[carried[c].input]);
        inputs[carried[c].input] = outputs[carried[c].output];
        outputs[carried[c].output] = NULL;
      }
      progress->steps = k + 1;
      progress->going = going;
    }
    for (size_t i = 0; i < num_outputs; i++)
      if (outputs[i]) call->drop(outputs[i]);
    if (leave) break;
  }
  return 0;
}
