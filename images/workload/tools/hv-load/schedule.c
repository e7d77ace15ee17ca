/* The schedule of arrivals. */
#include "load.h"

#include <math.h>

/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

double uniform(uint64_t *state)
{
    return (next_random(state) >> 11) * 0x1p-53;
}

/* Seconds since the start at which `expected` arrivals are expected: the inverse of the integral of
 * the rate. */
static double time_of(double expected, double rate, double ramp)
{
    double in_ramp = rate * ramp / 2;

    return expected < in_ramp ? sqrt(2 * expected * ramp / rate) : ramp / 2 + expected / rate;
}

void schedule_next(struct target *target)
{
    double step = target->periodic ? 1 : -log1p(-uniform(&target->times));

    if (target->periodic && !target->arrivals)   /* targets of one rate are out of phase */
        step = 1 - uniform(&target->times);
    target->arrivals += step;
    double at = time_of(target->arrivals, target->rate, ramp_ns / 1e9) * 1e9;
    target->next = at < end_ns ? (int64_t)at : INT64_MAX;
}

